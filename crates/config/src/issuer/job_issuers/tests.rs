//! Job issuers, good and bad.

use std::path::Path;

use super::super::issuer_config;
use super::*;
use crate::envelope;

const ISSUER: &str = include_str!("../../../../../deploy/examples/issuer.yaml");

fn read(text: &str) -> Result<Vec<JobIssuerConfig>, String> {
    let start = ISSUER.find("    - name: gitlab").unwrap();
    let end = ISSUER.find("  roles:").unwrap();
    let document = format!("{}    - {text}\n{}", &ISSUER[..start], &ISSUER[end..]);
    let read = envelope::parse(Path::new("issuer.yaml"), &document, "IssuerConfig", issuer_config);
    read.map(|config| config.job_issuers).map_err(|errors| errors.to_string())
}

const GITLAB: &str = "{name: gitlab, system: gitlab, url: https://gitlab.example.org, audience: shorepass-jobs, runner: firstUse}";
const OWN: &str = "{name: own, system: generic, url: https://own.example.org, audience: shorepass-jobs, runner: firstUse,
       jobClaim: build, claims: [{name: build}, {name: project, path: [ci, project], type: number, project: true}]}";

/// Exchanges a part and expects all fragments in the errors.
fn check(text: &str, part: &str, exchange: &str, fragments: &[&str]) {
    assert!(text.contains(part), "{part:?} is not in {text}");
    let errors = read(&text.replacen(part, exchange, 1)).unwrap_err();
    assert!(
        fragments.iter().all(|fragment| errors.contains(fragment)),
        "{fragments:?} are not in:\n{errors}"
    );
}

#[test]
fn systems_that_are_known_need_no_claims_and_others_name_theirs() {
    let read_gitlab = read(GITLAB).unwrap();
    assert_eq!(read_gitlab[0].issuer.system(), System::Gitlab);
    assert!(read_gitlab[0].issuer.claim("project_id").unwrap().project);
    let own = &read(OWN).unwrap()[0].issuer;
    assert_eq!(own.job_claim(), "build");
    assert_eq!(own.claim("project").unwrap().path, ["ci", "project"]);
}

#[test]
fn how_a_token_is_bound_to_its_runner_has_to_be_said() {
    check(GITLAB, ", runner: firstUse", "", &["jobIssuers[0].runner", "missing"]);
    check(GITLAB, "firstUse", "label", &["runnerLabel"]);
    check(GITLAB, "firstUse", "anybody", &["audience", "label", "firstUse"]);
    check(
        OWN,
        "runner: firstUse",
        "runner: label, runnerLabel: ci-runner",
        &["do not name their runner", "audience"],
    );
    let labelled = read(&GITLAB.replace("firstUse", "label, runnerLabel: gitlab-runner-id")).unwrap();
    let label = "gitlab-runner-id".to_owned();
    assert_eq!(*labelled[0].issuer.runner(), RunnerBinding::Label { label });
}

#[test]
fn what_would_take_anybodys_tokens_is_refused() {
    check(GITLAB, "https://gitlab", "http://gitlab", &["jobIssuers[0].url", "https://"]);
    check(GITLAB, "gitlab.example.org,", "gitlab.example.org?x=1,", &["jobIssuers[0].url"]);
    check(GITLAB, "shorepass-jobs", "'shorepass *'", &["jobIssuers[0].audience"]);
    let of_servers = ["jobIssuers[0].audience", "the audience of API servers"];
    check(GITLAB, "shorepass-jobs", "https://kubernetes.default.svc", &of_servers);
    check(OWN, ", project: true", "", &["jobIssuers[0].claims", "project: true"]);
    check(OWN, "jobClaim: build, ", "", &["jobIssuers[0].jobClaim", "tells the jobs"]);
    check(OWN, "jobClaim: build", "jobClaim: job", &["not among the claims"]);
}

#[test]
fn documents_may_be_elsewhere_and_are_named_whole() {
    const PLACES: &str = ", discoveryUrl: https://10.0.0.1:6443/.well-known/openid-configuration, keysUrl: https://10.0.0.1:6443/openid/v1/jwks}";
    let placed = GITLAB.replace('}', PLACES);
    let read_placed = &read(&placed).unwrap()[0];
    let discovery = "https://10.0.0.1:6443/.well-known/openid-configuration";
    assert_eq!(read_placed.documents.discovery_url.as_deref(), Some(discovery));
    assert_eq!(read_placed.documents.keys_url.as_deref(), Some("https://10.0.0.1:6443/openid/v1/jwks"));
    assert_eq!(read_placed.issuer.url(), "https://gitlab.example.org");
    let beyond = "/.well-known/openid-configuration";
    check(&placed, beyond, "", &["jobIssuers[0].discoveryUrl", "whole URL"]);
    check(&placed, beyond, "/", &["jobIssuers[0].discoveryUrl", "whole URL"]);
    check(&placed, "discoveryUrl: https:", "discoveryUrl: http:", &["jobIssuers[0].discoveryUrl"]);
    check(&placed, "/openid/v1/jwks", "/jwks?x=1", &["jobIssuers[0].keysUrl"]);
    check(
        &placed,
        "keysUrl:",
        "keysHost: a:1, keysUrl:",
        &["jobIssuers[0].keysHost", "keysUrl stands here too"],
    );
}

#[test]
fn tokens_of_one_issuer_are_taken_by_one_entry() {
    for second in
        [GITLAB.replace("name: gitlab", "name: other"), GITLAB.replace("https://gitlab", "https://other")]
    {
        let errors = read(&format!("{GITLAB}\n    - {second}")).unwrap_err();
        assert!(errors.contains("of this name or URL stands here already"), "{errors}");
    }
}
