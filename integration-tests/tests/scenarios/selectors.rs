//! What an operator's revocation hits: a table of conditions on a few leases, dry and then in earnest.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use integration_tests::agent::as_operator;
use integration_tests::issuer::{IssuerUnderTest, Knobs, TRUST_DOMAIN};
use integration_tests::site::{CLUSTER, DEPLOY, RoleDocument, Site};
use serde_json::{Value, json};

const SECOND: RoleDocument = RoleDocument { name: "second", service_account: "second", granted: true };

/// Dropped in this order: the issuer before the cluster's side of it.
struct Scene {
    issuer: IssuerUnderTest,
    site: Site,
}

impl Scene {
    /// What `lease revoke` says with these conditions.
    fn revoke(&self, conditions: &[&str]) -> Result<Value> {
        let mut arguments = vec!["lease", "revoke", "--reason", "leaked", "-o", "json"];
        arguments.extend(conditions);
        let text = as_operator(&self.issuer, &arguments)?.succeeded()?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    async fn anchors(&self) -> Result<usize> {
        Ok(self.site.place.anchors().await?.len())
    }
}

/// The leases of a document, by their ids.
fn hit(document: &Value) -> Result<BTreeSet<&str>> {
    let items = document["items"].as_array().context("no items")?;
    items.iter().map(|item| item["lease"]["id"].as_str().context("a lease without id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_condition_hits_its_leases_and_no_others() -> Result<()> {
    let site = Site::with_roles("selectors", &[DEPLOY, SECOND]).await?;
    site.place.service_account(SECOND.service_account).await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let scene = Scene { issuer, site };
    let (one, two) = (scene.issuer.runner("test-1").await?, scene.issuer.runner("test-2").await?);
    scene.issuer.runner("test-3").await?; // which holds nothing
    let portal = scene.issuer.platform("test-portal")?;
    let job = one.start_job().await?;
    let a = one.issue(&job, "deploy").await?.lease.id;
    let b = one.issue(&job, "second").await?.lease.id;
    let c = two.issue(&two.start_job().await?, "deploy").await?.lease.id;
    let d = portal.issue(&portal.start_job().await?, "deploy").await?.lease.id;
    let namespace = &scene.site.place.namespace;
    let account = |name| format!("{CLUSTER}/{namespace}/{name}");
    let (deployer, nobody) = (account("deployer"), account("nobody"));
    let platform = format!("spiffe://{TRUST_DOMAIN}/platform/test-portal");

    let table: &[(&[&str], &[&String])] = &[
        (&[&a], &[&a]),
        (&["--runner", "test-1"], &[&a, &b]),
        (&["--runner", "test-3"], &[]),
        (&["--runner", &platform], &[&d]),
        (&["--job", &job], &[&a, &b]),
        (&["--role", "second"], &[&b]),
        (&["--service-account", &deployer], &[&a, &c, &d]),
        (&["--service-account", &nobody], &[]),
        (&["--cluster", CLUSTER], &[&a, &b, &c, &d]),
        (&["--runner", "test-1", "--role", "deploy"], &[&a]),
        (&["--service-account", &deployer, "--runner", "test-2"], &[&c]),
        (&["--all"], &[&a, &b, &c, &d]),
    ];
    scene.revoke(&["--all", "--dry-run"])?; // makes the operator's identity
    scene.issuer.identities_are_audited().await?;
    let before = scene.issuer.audit()?.len();
    for (conditions, expected) in table {
        let mut dry = conditions.to_vec();
        dry.push("--dry-run");
        let document = scene.revoke(&dry)?;
        let expected: BTreeSet<&str> = expected.iter().map(|id| id.as_str()).collect();
        ensure!(hit(&document)? == expected, "{conditions:?}: {:?} and not {expected:?}", hit(&document)?);
        ensure!(document["summary"]["wouldRevoke"] == expected.len(), "{conditions:?}: {document:#}");
    }
    // What nobody knows is a slip, and no success.
    for (conditions, says) in [
        (["--cluster", "other"], format!("no cluster other, and no lease in one lives; it has {CLUSTER}")),
        (["--role", "secund"], "no role secund, and no lease of one lives; it has deploy, second".to_owned()),
        (["--runner", "test-4"], "runner/test-4 is not known to this issuer".to_owned()),
    ] {
        let arguments = [&["lease", "revoke", "--reason", "leaked"], &conditions as &[_]].concat();
        as_operator(&scene.issuer, &arguments)?.failed(2, &[&says])?;
    }
    assert_eq!(scene.issuer.audit()?.len(), before, "a dry run changed something");
    assert_eq!(scene.anchors().await?, 4);

    let done = scene.revoke(&["--service-account", &deployer])?;
    assert_eq!(hit(&done)?, BTreeSet::from([a.as_str(), &c, &d]));
    let summary = json!({
        "wouldRevoke": 0, "revoked": 3, "ending": 0, "alreadyEnded": 0, "tokensRemain": 0, "blocksSet": 3, "withoutBlock": 0
    });
    assert_eq!(done["summary"], summary);
    assert_eq!(scene.anchors().await?, 1);
    assert_eq!(one.refresh(&b).await?.lease.id, b, "another ServiceAccount's lease was hit");
    let done = scene.revoke(&["--all"])?;
    assert_eq!((hit(&done)?, scene.anchors().await?), (BTreeSet::from([b.as_str()]), 0));
    let again = scene.revoke(&[&a])?;
    assert_eq!((&again["summary"]["alreadyEnded"], &again["summary"]["blocksSet"]), (&json!(1), &json!(0)));

    let table = as_operator(&scene.issuer, &["block", "list", "--runner", "test-1"])?.succeeded()?;
    for word in ["deploy", "second", "operator/alice", "leaked"] {
        assert!(table.contains(word), "{word} is not in {table}");
    }
    assert_eq!(table.lines().count(), 3, "{table}");
    // Without a condition it does nothing.
    as_operator(&scene.issuer, &["lease", "revoke", "--reason", "leaked"])?.failed(2, &["--all"])?;
    Ok(())
}
