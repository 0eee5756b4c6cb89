//! What the agent is not made of: with any of these it could mint, or keep a token.

use std::process::Command;

#[test]
fn the_agent_links_no_kubernetes_client_and_no_store() {
    let arguments =
        ["tree", "--package", "shorepass-agent", "--edges", "normal", "--prefix", "none", "--offline"];
    let output = Command::new(env!("CARGO")).args(arguments).output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"shorepass-core"), "{tree}{}", String::from_utf8_lossy(&output.stderr));
    for able in ["kube", "kube-client", "k8s-openapi", "sled", "shorepass-cluster", "shorepass-store"] {
        assert!(!names.contains(&able), "shorepass-agent depends on {able}");
    }
}
