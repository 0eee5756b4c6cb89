//! Tokens as the four CI systems make them, signed and verified: what stands in a table is what comes out.
use shorepass_core::claims::Claim;

use super::*;

/// A payload as the system documents it, without `iss`, `aud` and times.
fn payload(system: System) -> Value {
    match system {
        System::Github => json!({
            "jti": "example-id", "sub": "repo:octo-org@123456/octo-repo@456789:ref:refs/heads/main",
            "environment": null, "ref": "refs/heads/main", "ref_type": "branch", "ref_protected": "true",
            "sha": "f61e0a5b", "repository": "octo-org/octo-repo", "repository_id": "456789",
            "repository_owner": "octo-org", "repository_owner_id": "123456", "repository_visibility": "private",
            "actor": "octocat", "actor_id": "12", "workflow": "deploy", "head_ref": "", "base_ref": "",
            "event_name": "push", "run_id": "18100042001", "run_number": "10", "run_attempt": "2",
            "runner_environment": "self-hosted", "check_run_id": "51725712932",
            "job_workflow_ref": "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main",
            "repo_property_tier": "gold",
        }),
        System::Gitlab => json!({
            "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b", "sub": "project_path:group/app:ref_type:branch:ref:main",
            "namespace_id": "72", "namespace_path": "group", "project_id": "20", "project_path": "group/app",
            "user_id": "1", "user_login": "sample-user", "user_email": "sample-user@example.com",
            "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
            "pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch",
            "ref_path": "refs/heads/main", "ref_protected": "true", "groups_direct": ["group", "group/sub"],
            "runner_id": 1, "runner_environment": "self-hosted", "sha": "714a629c",
        }),
        System::Buildkite => json!({
            "sub": "organization:acme-inc:pipeline:super-duper-app:ref:refs/heads/main:commit:9f31:step:deploy",
            "organization_slug": "acme-inc", "pipeline_slug": "super-duper-app", "build_number": 1,
            "pipeline_id": "0184990a-4782-42b5-afc1-16715b10b110", "build_branch": "main", "build_commit": "9f31",
            "step_key": null, "job_id": "0184990a-477b-4fa8-9968-496074483cee",
            "agent_id": "0184990a-4782-42b5-afc1-16715b10b8ff", "build_source": "webhook",
            "https://aws.amazon.com/tags": {"principal_tags": {"organization_slug": ["acme-inc"]}},
        }),
        System::Jenkins => json!({
            "sub": "https://jenkins.example.org/job/app/job/main/", "build_number": 12,
            "build_url": "https://jenkins.example.org/job/app/job/main/12/",
        }),
        System::Generic => json!({"sub": "job", "project": "17", "job": "42"}),
    }
}

async fn verified(system: System, bench: &Bench) -> VerifiedJob {
    let declared = match system {
        System::Github | System::Gitlab | System::Buildkite => Declared::default(),
        System::Generic => declared(),
        System::Jenkins => {
            let claim = |name: &str, path: &str, project| KnownClaim {
                name: name.to_owned(),
                path: vec![path.to_owned()],
                kind: ClaimKind::Text,
                project,
            };
            Declared {
                claims: vec![claim("job_url", "sub", true), claim("build_url", "build_url", false)],
                job: Some("build_url".to_owned()),
            }
        }
    };
    let url = bench.server.url().to_owned();
    let name = Name::parse(system.as_str()).unwrap();
    let issuer =
        JobIssuer::new(name, system, url.clone(), AUDIENCE.to_owned(), RunnerBinding::FirstUse, declared);
    let trusted =
        Trusted { issuer: issuer.unwrap(), ca_pem: Some(bench.ca_pem.clone()), places: Places::default() };
    let mut claims = payload(system);
    claims["iss"] = json!(url);
    claims["aud"] = json!(AUDIENCE);
    claims["iat"] = json!(now().as_second());
    claims["exp"] = json!(now().as_second() + 300);
    let token = JobToken::new(bench.key.sign(&claims));
    Verifier::new(vec![trusted]).unwrap().verify(&token, &runner("prod-1"), now()).await.unwrap()
}

#[tokio::test]
async fn each_system_names_its_job_and_its_project() {
    let bench = bench_with(SigningKey::rsa("one")).await;
    for (system, id, project) in [
        (System::Github, "51725712932", ("repository_id", "456789")),
        (System::Gitlab, "302", ("project_id", "20")),
        (
            System::Buildkite,
            "0184990a-477b-4fa8-9968-496074483cee",
            ("pipeline_id", "0184990a-4782-42b5-afc1-16715b10b110"),
        ),
        (
            System::Jenkins,
            "https://jenkins.example.org/job/app/job/main/12/",
            ("job_url", "https://jenkins.example.org/job/app/job/main/"),
        ),
        (System::Generic, "42", ("project", "17")),
    ] {
        let job = verified(system, &bench).await;
        assert_eq!((job.system, job.id.as_str()), (system, id));
        assert_eq!(job.claims.get(project.0), Some(&Claim::Text(project.1.to_owned())), "{system}");
    }
}

#[tokio::test]
async fn a_runner_that_gitlab_names_by_number_is_text_like_its_other_ids() {
    let bench = bench().await;
    let job = verified(System::Gitlab, &bench).await;
    assert_eq!(job.claims.get("runner_id"), Some(&Claim::Text("1".to_owned())));
    let groups = ["group", "group/sub"].map(str::to_owned).to_vec();
    assert_eq!(job.claims.get("groups_direct"), Some(&Claim::Texts(groups)));
    assert_eq!(job.claims.get("user_identities"), None);
}

#[tokio::test]
async fn what_no_table_knows_is_not_read_and_what_is_null_is_not_there() {
    let bench = bench().await;
    let github = verified(System::Github, &bench).await;
    assert_eq!((github.claims.get("repo_property_tier"), github.claims.get("environment")), (None, None));
    let buildkite = verified(System::Buildkite, &bench).await;
    assert_eq!(
        (buildkite.claims.get("step_key"), buildkite.claims.get("build_number")),
        (None, Some(&Claim::Number(1)))
    );
}
