//! A PKI that is none of ours, made by the `openssl` command: CAs, intermediates, and leaves of every shape.
//!
//! What the daemons take from others must not be tried with what the daemons themselves are made of. Everything panics on
//! failure, a missing `openssl` first of all: without it nothing was tested.
#![allow(clippy::unwrap_used, reason = "only tests use this")]

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use shorepass_core::time::Timestamp;
use tempfile::TempDir;

use crate::certificates::Pair;

/// Good certificates are valid for so many seconds before and after the moment they are made for.
const VALID: i64 = 3600;

/// A CA with its key, in a folder of its own.
pub struct OpensslCa {
    folder: TempDir,
    now: Timestamp,
    certificate_pem: String,
    /// What leads from a leaf to the root: this CA and those above it, the root not.
    intermediates_pem: String,
}

/// What a leaf is to be.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// Its names, as openssl writes them: `URI:spiffe://...`, `DNS:...`.
    pub names: &'a [&'a str],
    /// Its extended key usages; none if empty.
    pub usages: &'a str,
    /// Whether it says that it is a CA.
    pub authority: bool,
    /// Whether it has ended already.
    pub expired: bool,
}

impl Default for Leaf<'_> {
    /// Without a name, for both sides of TLS, as SPIRE makes them.
    fn default() -> Self {
        Self { names: &[], usages: "serverAuth,clientAuth", authority: false, expired: false }
    }
}

impl OpensslCa {
    /// A root, around this moment.
    pub fn root(name: &str, now: Timestamp) -> Self {
        let ca = Self::begin(name, now);
        let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";
        let certificate_pem = ca.sign_in(&ca, extensions, false, &["-selfsign"]);
        ca.finish(certificate_pem, String::new())
    }

    /// One that this one has signed, with more lines for its extensions.
    pub fn intermediate(&self, name: &str, more: &str) -> Self {
        let ca = Self::begin(name, self.now);
        let extensions = format!(
            "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n{more}"
        );
        let certificate_pem = self.sign_in(&ca, &extensions, false, &[]);
        let intermediates_pem = format!("{certificate_pem}{}", self.intermediates_pem);
        ca.finish(certificate_pem, intermediates_pem)
    }

    /// A leaf with its key and its chain up to the root, which is left out.
    pub fn leaf(&self, leaf: &Leaf<'_>) -> Pair {
        let made = Self::begin("leaf", self.now);
        let mut extensions =
            format!("basicConstraints=critical,CA:{}\n", if leaf.authority { "TRUE" } else { "FALSE" });
        extensions += "keyUsage=critical,digitalSignature\n";
        if !leaf.usages.is_empty() {
            writeln!(extensions, "extendedKeyUsage={}", leaf.usages).unwrap();
        }
        if !leaf.names.is_empty() {
            writeln!(extensions, "subjectAltName={}", leaf.names.join(",")).unwrap();
        }
        let certificate_pem = self.sign_in(&made, &extensions, leaf.expired, &[]);
        Pair {
            certificate_pem: format!("{certificate_pem}{}", self.intermediates_pem),
            key_pem: made.key_pem(),
        }
    }

    /// Its certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its certificate and those above it, the root not; nothing for a root. PEM.
    pub fn intermediates_pem(&self) -> &str {
        &self.intermediates_pem
    }

    /// Its private key, PKCS #8, PEM.
    pub fn key_pem(&self) -> String {
        fs::read_to_string(self.file("key.pem")).unwrap()
    }

    /// A folder with a key and a request for it.
    fn begin(name: &str, now: Timestamp) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Self { folder, now, certificate_pem: String::new(), intermediates_pem: String::new() };
        let config = format!(
            "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nO=other PKI\nCN={name}\n\
             [ca]\ndefault_ca=this\n[this]\ndatabase={0}/index\nnew_certs_dir={0}\nrand_serial=yes\n\
             unique_subject=no\ndefault_md=sha256\npolicy=any\nemail_in_dn=no\n\
             [any]\norganizationName=optional\ncommonName=optional\n",
            ca.folder.path().display()
        );
        fs::write(ca.file("config"), config).unwrap();
        fs::write(ca.file("index"), "").unwrap();
        let [key, config, request] =
            ["key.pem", "config", "request.pem"].map(|name| ca.file(name).display().to_string());
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key]);
        openssl(&["req", "-new", "-key", &key, "-config", &config, "-out", &request]);
        ca
    }

    fn finish(self, certificate_pem: String, intermediates_pem: String) -> Self {
        fs::write(self.file("certificate.pem"), &certificate_pem).unwrap();
        Self { certificate_pem, intermediates_pem, ..self }
    }

    /// Signs what was begun there.
    fn sign_in(&self, begun: &Self, extensions: &str, expired: bool, more: &[&str]) -> String {
        fs::write(begun.file("extensions"), format!("[leaf]\n{extensions}")).unwrap();
        let moment = |offset: i64| {
            let at = Timestamp::from_second(self.now.as_second() + offset).unwrap();
            at.strftime("%Y%m%d%H%M%SZ").to_string()
        };
        let (from, to) = if expired { (-2 * VALID, -VALID) } else { (-VALID, VALID) };
        let (from, to) = (moment(from), moment(to));
        let ours = |name: &str| self.file(name).display().to_string();
        let theirs = |name: &str| begun.file(name).display().to_string();
        let (config, key, certificate) = (ours("config"), ours("key.pem"), ours("certificate.pem"));
        let (request, extensions, out) = (theirs("request.pem"), theirs("extensions"), theirs("signed.pem"));
        let mut arguments =
            vec!["ca", "-batch", "-notext", "-config", &config, "-keyfile", &key, "-in", &request];
        arguments.extend([
            "-startdate",
            &from,
            "-enddate",
            &to,
            "-extfile",
            &extensions,
            "-extensions",
            "leaf",
        ]);
        arguments.extend(["-out", &out]);
        match more.is_empty() {
            true => arguments.extend(["-cert", &certificate]),
            false => arguments.extend(more),
        }
        openssl(&arguments);
        fs::read_to_string(out).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn openssl(arguments: &[&str]) {
    let output = match Command::new("openssl").args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => panic!(
            "there is no `openssl` on this machine, and these tests make the certificates of other PKIs with it: install \
             the package openssl"
        ),
        Err(error) => panic!("cannot run openssl: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {}: {said}", arguments.join(" "));
}
