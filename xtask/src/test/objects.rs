//! Objects in the cluster that tests left behind.
//!
//! Compared with what was there before, so that nothing has to be known about what Kubernetes makes for itself. What
//! changes in its own namespaces while it runs is its own business.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::control_plane::Facts;
use crate::progress::Progress;
use crate::signals;

/// What tests make.
const KINDS: &str = "namespaces,serviceaccounts,secrets,configmaps,roles,rolebindings,clusterroles,clusterrolebindings,\
    validatingadmissionpolicies,validatingadmissionpolicybindings,mutatingwebhookconfigurations";

/// One line for each object: kind, namespace (or nothing), name.
const LINES: &str =
    r#"jsonpath={range .items[*]}{.kind}{" "}{.metadata.namespace}{"/"}{.metadata.name}{"\n"}{end}"#;

/// A namespace goes away some seconds after it was deleted.
const PATIENCE: Duration = Duration::from_secs(60);

/// The objects that there are.
pub(super) fn list(facts: &Facts) -> Result<BTreeSet<String>> {
    let output = Command::new(&facts.kubectl)
        .arg("--kubeconfig")
        .arg(&facts.kubeconfig)
        // Next to the kubeconfig, in a folder that goes away: not in the user's home.
        .arg("--cache-dir")
        .arg(facts.kubeconfig.with_file_name("kubectl-cache"))
        .args(["get", KINDS, "--all-namespaces", "--output", LINES])
        .output()
        .context("cannot run kubectl")?;
    ensure!(
        output.status.success(),
        "cannot list what is in the cluster: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(theirs(&String::from_utf8_lossy(&output.stdout)))
}

/// One complaint for each object that was not there before and does not go away.
pub(super) fn left_over(facts: &Facts, before: &BTreeSet<String>) -> Result<Vec<String>> {
    let started = Instant::now();
    let mut progress: Option<Progress> = None;
    loop {
        let now = list(facts)?;
        let left: Vec<&String> = now.difference(before).collect();
        if left.is_empty() || started.elapsed() >= PATIENCE {
            progress.into_iter().for_each(Progress::done);
            return Ok(left
                .into_iter()
                .map(|object| format!("a test left {object} in the cluster"))
                .collect());
        }
        if started.elapsed() > Duration::from_secs(2) {
            let begin = || Progress::start("waiting for what tests deleted to be gone", "10 s");
            progress.get_or_insert_with(begin).tick(|| format!("{} objects", left.len()));
        }
        signals::pause(Duration::from_millis(500))?;
    }
}

fn theirs(output: &str) -> BTreeSet<String> {
    output.lines().filter(|line| !line.contains(" kube-")).map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_kubernetes_are_its_own() {
        let output =
            "Namespace /web\nServiceAccount kube-system/x\nClusterRole /kube-like\nSecret web/kube-x\n";
        let expected = ["ClusterRole /kube-like", "Namespace /web", "Secret web/kube-x"];
        assert_eq!(theirs(output).iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}
