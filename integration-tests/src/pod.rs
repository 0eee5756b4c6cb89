//! What a container sees of its pod: the mount with the service account, which nobody else sees, and the environment.

use std::path::Path;

use anyhow::{Context as _, Result};

/// In a mount namespace of its own, so that nothing of it is left: the directory is mounted where every pod has it.
const SCRIPT: &str = "at=/var/run/secrets/kubernetes.io/serviceaccount; mount -t tmpfs none /var/run && mkdir -p $at && \
                      mount --bind \"$1\" $at && export KUBERNETES_SERVICE_HOST=\"$2\" KUBERNETES_SERVICE_PORT=\"$3\" && \
                      shift 3 && exec \"$@\"";

/// Arguments of `unshare`, before those of the program, for this mount and API server.
pub(crate) fn around(mount: &Path, server: &str, program: &Path) -> Result<[String; 9]> {
    let address = server.strip_prefix("https://").and_then(|address| address.rsplit_once(':'));
    let (host, port) = address.context("the API server's URL has no port")?;
    let private = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let (mount, program) = (mount.display().to_string(), program.display().to_string());
    Ok([private, "sh", "-c", SCRIPT, "sh", &mount, host, port, &program].map(str::to_owned))
}
