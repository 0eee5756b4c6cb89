//! What the exec plugin is not made of.

use std::process::Command;

#[test]
fn the_plugin_links_no_network_stack_and_no_kubernetes_client() {
    let arguments =
        ["tree", "--package", "shorepass-exec", "--edges", "normal", "--prefix", "none", "--offline"];
    let output = Command::new(env!("CARGO")).args(arguments).output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"shorepass-proto"), "{tree}{}", String::from_utf8_lossy(&output.stderr));
    for heavy in ["tonic", "hyper", "h2", "rustls", "kube", "tokio", "clap", "shorepass-core"] {
        assert!(!names.contains(&heavy), "shorepass-exec depends on {heavy}");
    }
}
