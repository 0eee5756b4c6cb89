//! How the issuer gets into a cluster: `clusters[].connect`.
//!
//! Three ways: a kubeconfig whose credential somebody else cares for; a kubeconfig with a token that the issuer renews
//! itself; the mount that every pod has, which the kubelet renews. Whether the kubeconfig has a file to renew is found out
//! by whoever opens it.

use std::path::PathBuf;

use shorepass_core::name::Name;

use super::kubeconfig;
use crate::cursor::Cursor;

/// Where server and credential come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connect {
    /// From a file.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The context in it.
        context: String,
        /// How the token that it points to is renewed, if the issuer does that.
        renew: Option<Renew>,
    },
    /// From the mount of the pod that the issuer runs in.
    InCluster,
}

/// Whose token the issuer renews, and what its life hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renew {
    /// The namespace of its own ServiceAccount, and of the Secret.
    pub namespace: Name,
    /// Its own ServiceAccount.
    pub service_account: Name,
    /// The Secret that its tokens are bound to: deleting it ends them.
    pub secret: Name,
}

pub(super) fn connect(cursor: &Cursor<'_>) -> Option<Connect> {
    let fields = cursor.fields(&["kubeconfig", "renew", "inCluster"])?;
    let in_cluster = fields.optional("inCluster", |flag| match flag.text()? {
        "true" => Some(()),
        other => flag.fault(format!("{other:?} is not true: leave the key out and write kubeconfig instead")),
    });
    if fields.has("inCluster") {
        if fields.has("kubeconfig") {
            return cursor.fault("inCluster and kubeconfig are two ways: choose one");
        }
        if fields.has("renew") {
            return cursor.fault("renew goes with kubeconfig only: in a pod the kubelet renews the token");
        }
        return in_cluster.map(|()| Connect::InCluster);
    }
    let renew = fields.optional("renew", renew);
    let (path, context) = fields.required("kubeconfig", kubeconfig)?;
    // One that is there and wrong is told where it stands, and nothing is made of the document.
    Some(Connect::Kubeconfig { path, context, renew })
}

fn renew(cursor: &Cursor<'_>) -> Option<Renew> {
    let fields = cursor.fields(&["namespace", "serviceAccount", "secret"])?;
    let namespace = fields.required("namespace", Cursor::name);
    let service_account = fields.required("serviceAccount", Cursor::name);
    let secret = fields.required("secret", Cursor::name);
    Some(Renew { namespace: namespace?, service_account: service_account?, secret: secret? })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::envelope;

    const RENEWING: &str =
        "{kubeconfig: {path: k, context: c}, renew: {namespace: n, serviceAccount: a, secret: s}}";

    fn read(connect: &str) -> Result<Connect, String> {
        let text = format!("apiVersion: shorepass.dev/v1\nkind: Way\nspec: {connect}\n");
        envelope::parse(Path::new("/etc/x.yaml"), &text, "Way", super::connect)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn there_are_three_ways() {
        let kubeconfig =
            |renew| Connect::Kubeconfig { path: PathBuf::from("/etc/k"), context: "c".to_owned(), renew };
        let name = |text| Name::parse(text).unwrap();
        let renew = Renew { namespace: name("n"), service_account: name("a"), secret: name("s") };
        assert_eq!(read("{kubeconfig: {path: k, context: c}}"), Ok(kubeconfig(None)));
        assert_eq!(read(RENEWING), Ok(kubeconfig(Some(renew))));
        assert_eq!(read("{inCluster: true}"), Ok(Connect::InCluster));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (connect, said) in [
            ("{}", "spec.kubeconfig: this key is missing"),
            ("{inCluster: false}", "\"false\" is not true"),
            ("{inCluster: true, kubeconfig: {path: k, context: c}}", "choose one"),
            ("{inCluster: true, renew: {}}", "the kubelet renews the token"),
            (&RENEWING.replace("secret: s", "secret: S"), "spec.renew.secret: \"S\" is not a name"),
            (&RENEWING.replace(", secret: s", ""), "spec.renew.secret: this key is missing"),
            (&RENEWING.replace("serviceAccount", "account"), "spec.renew.account: unknown key"),
        ] {
            let errors = read(connect).unwrap_err();
            assert!(errors.contains(said), "{connect}: {said}\n{errors}");
        }
    }
}
