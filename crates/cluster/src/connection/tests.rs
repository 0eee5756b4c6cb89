//! Ways to clusters that there are, and that there are not.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

const GOOD: &str = "\
apiVersion: v1
kind: Config
contexts:
  - {name: staging, context: {cluster: c, user: u}}
  - {name: prod, context: {cluster: c, user: u}}
clusters:
  - {name: c, cluster: {server: 'https://127.0.0.1:6443', tls-server-name: api.internal}}
users:
  - {name: u, user: {token: hunter2}}
";

fn connection(text: &str) -> (tempfile::NamedTempFile, Connection) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let name = |text| Name::parse(text).unwrap();
    let (kubeconfig, context) = (file.path().to_owned(), "staging".to_owned());
    let connection = Connection::new(name("c"), kubeconfig, context, name("main"));
    (file, connection)
}

async fn problem(text: &str) -> String {
    let (_file, connection) = connection(text);
    chain(&connection.open().await.err().expect("it must be refused"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        said.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    said
}

#[tokio::test]
async fn clients_are_told_what_the_kubeconfig_says() {
    let (_file, connection) = connection(GOOD);
    let (endpoint, ..) = connection.open().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(endpoint.server, "https://127.0.0.1:6443");
    assert_eq!(endpoint.tls_server_name, "api.internal");
    assert!(endpoint.ca_bundle_pem.is_empty());
}

#[tokio::test]
async fn another_server_does_not_inherit_the_tls_name() {
    let (_file, mut connection) = connection(GOOD);
    connection.advertise.server = Some("https://api.example.org".to_owned());
    let (endpoint, ..) = connection.open().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (endpoint.server.as_str(), endpoint.tls_server_name.as_str()),
        ("https://api.example.org", "")
    );
}

#[tokio::test]
async fn a_file_that_others_may_use_is_refused_with_the_remedy() {
    let open = async |user: &str, mode: u32| {
        let (file, connection) = connection(&GOOD.replace("token: hunter2", user));
        file.as_file().set_permissions(Permissions::from_mode(mode)).unwrap();
        let said = connection.open().await.err().map(|error| error.to_string());
        said.map(|said| said.replace(&file.path().display().to_string(), "FILE"))
    };
    let key = format!("client-key-data: {}", STANDARD.encode("key"));
    for user in ["token: hunter2", &key, "username: u, password: hunter2", "exec: {command: aws}"] {
        for mode in [0o640, 0o604, 0o620] {
            let said = open(user, mode).await.unwrap();
            assert!(said.contains(&format!("mode {mode:04o}")) && said.ends_with("chmod 600 FILE"), "{said}");
        }
    }
    assert_eq!(open("token: hunter2", 0o600).await, None);
    assert_eq!(open("token: hunter2", 0o400).await, None);
    // A projected token's place is no secret, but nobody else may say where it is sent.
    assert_eq!(open("username: u", 0o444).await, None);
    assert!(open("username: u", 0o664).await.unwrap().ends_with("chmod go-w FILE"));
}

#[tokio::test]
async fn an_unknown_context_is_told_with_those_that_are_there() {
    let said = problem(&GOOD.replace("name: staging", "name: stage")).await;
    assert!(said.ends_with("has no context \"staging\": it has stage, prod"), "{said}");
}

#[tokio::test]
async fn a_server_that_nobody_verifies_is_refused() {
    let insecure = GOOD.replace("tls-server-name: api.internal", "insecure-skip-tls-verify: true");
    assert!(problem(&insecure).await.contains("certificate-authority"));
    assert!(problem(&GOOD.replace("https://", "http://")).await.contains("in the clear"));
}

#[tokio::test]
async fn a_malformed_file_is_told_by_place_and_never_quoted() {
    let said = problem(&GOOD.replace("{token: hunter2}", "[token: hunter2")).await;
    assert!(said.contains("line ") && !said.contains("hunter2"), "{said}");
    let said = problem(&GOOD.replace("users:", "users: hunter2\nx:")).await;
    assert!(said.contains("is not a kubeconfig") && !said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn missing_files_are_named() {
    let (file, connection) = connection(GOOD);
    drop(file);
    let said = chain(&connection.open().await.err().expect("it must be refused"));
    assert!(said.contains(&connection.kubeconfig.display().to_string()), "{said}");
    let said = problem(&GOOD.replace("{token: hunter2}", "{tokenFile: /does/not/exist}")).await;
    assert!(said.contains("token file"), "{said}");
    let said = problem(&GOOD.replace("tls-server-name: api.internal", "certificate-authority: /no/ca")).await;
    assert!(said.contains("/no/ca"), "{said}");
}

#[tokio::test]
async fn what_a_credential_plugin_prints_is_not_quoted() {
    let plugin = "{exec: {apiVersion: client.authentication.k8s.io/v1, interactiveMode: Never, command: sh, \
                  args: ['-c', 'echo hunter2; echo hunter2 >&2; exit 1']}}";
    let said = problem(&GOOD.replace("{token: hunter2}", plugin)).await;
    assert!(said.contains("plugin") && !said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn an_advertised_server_is_an_https_url() {
    for bad in ["http://api", "api:6443", "https://", ""] {
        let (_file, mut connection) = connection(GOOD);
        connection.advertise.server = Some(bad.to_owned());
        assert!(matches!(connection.open().await, Err(ConnectError::AdvertiseServer(_))), "{bad:?}");
    }
}
