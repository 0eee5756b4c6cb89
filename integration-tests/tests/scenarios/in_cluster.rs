//! An issuer in a pod: server, authority and token from the mount that every pod has, whose token the kubelet replaces.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::site::{DEPLOY, Site};
use integration_tests::use_of_tokens::is_refused_for_good;
use integration_tests::wait::{self, Seen};
use kube::api::DeleteParams;

use super::own_credential::bound_token;

/// The client reads the token again within a minute, and the Lease is renewed every ten seconds.
const READ_AGAIN: Duration = Duration::from_secs(90);

/// Puts another token into the mount as a kubelet does: all files in a directory of their own, to which one link leads.
fn mount(folder: &Path, version: &str, authority: &Path, token: &str) -> Result<()> {
    let files = folder.join(format!("..{version}"));
    fs::create_dir(&files)?;
    fs::copy(authority, files.join("ca.crt"))?;
    fs::write(files.join("token"), token)?;
    let next = folder.join("..data_tmp");
    symlink(format!("..{version}"), &next)?;
    fs::rename(next, folder.join("..data"))?;
    for name in ["ca.crt", "token"] {
        if !folder.join(name).is_symlink() {
            symlink(format!("..data/{name}"), folder.join(name))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_in_a_pod_goes_on_with_the_token_that_the_kubelet_puts_there() -> Result<()> {
    let site = Site::new("incluster").await?;
    let home = &site.identity.home;
    let first = bound_token(&site, "first").await?;
    let pod = tempfile::tempdir()?;
    mount(pod.path(), "1", &site.authority()?, &first)?;
    let knobs = Knobs { connect: Some("{inCluster: true}".to_owned()), ..Knobs::default() };
    let mut issuer = IssuerUnderTest::prepare(&site, knobs)?;
    issuer.run_in_pod(pod.path(), site.server()?).await?;
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    platform.issue(&job, DEPLOY.name).await?;

    mount(pod.path(), "2", &site.authority()?, &bound_token(&site, "second").await?)?;
    home.secrets().delete("first", &DeleteParams::default()).await?;
    is_refused_for_good(&site.admin.client_with(&first).await?).await?;
    // Nothing but the second token gets in any more.
    wait::until("the token to be read again", READ_AGAIN, async || {
        Ok(match platform.issue(&job, DEPLOY.name).await {
            Ok(_) => Seen::Ready(()),
            Err(refused) => Seen::NotYet(refused.to_string()),
        })
    })
    .await
    .with_context(|| issuer.log())
}
