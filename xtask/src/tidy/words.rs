//! The repository speaks of shorepass alone: no paths of somebody's machine, no hosts that packages came from.
//!
//! The words are put together here from parts, so that this file does not find itself.

use super::tree::Tree;
use super::{Problem, code};

/// Folders at the root of a machine where people work.
const MACHINE: [&str; 5] = ["root", "work", "home", "workspace", "Users"];

/// People who live in examples only.
const EXAMPLES: [&str; 2] = ["/alice/", "/deployer/"];

/// Hosts that packages come from. Which ones is a setting of the machine.
const HOSTS: [(&str, &str); 8] = [
    ("proxy", "golang.org"),
    ("sum", "golang.org"),
    ("goproxy", "io"),
    ("index", "crates.io"),
    ("static", "crates.io"),
    ("registry", "npmjs.org"),
    ("files", "pythonhosted.org"),
    ("registry-1", "docker.io"),
];

/// Settings that say so.
const SETTINGS: [(&str, &str); 5] =
    [("GO", "PROXY"), ("GO", "SUMDB"), ("CARGO_", "REGISTRIES_"), ("replace", "-with"), ("insteadOf", " =")];

/// Checks every line of every file.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    let places = HOSTS.map(|(name, domain)| format!("{name}.{domain}"));
    let settings = SETTINGS.map(|(start, end)| format!("{start}{end}"));
    for file in &tree.files {
        for folder in MACHINE {
            let path = format!("/{folder}");
            for offset in machine_paths(&file.text, &path) {
                let what = format!("{path} is a path of somebody's machine");
                problems.push(Problem::new(&file.path, code::line_of(&file.text, offset), what));
            }
        }
        for word in places.iter().chain(&settings) {
            for (offset, _) in file.text.match_indices(word.as_str()) {
                let what = format!("{word}: where packages come from is for the machine to say");
                problems.push(Problem::new(&file.path, code::line_of(&file.text, offset), what));
            }
        }
    }
    problems
}

/// Where the text has this absolute path, or one below it.
fn machine_paths(text: &str, path: &str) -> impl Iterator<Item = usize> {
    let is_name = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
    text.match_indices(path).map(|(offset, _)| offset).filter(move |&offset| {
        let (before, behind) = (&text[..offset], &text[offset + path.len()..]);
        let goes_on = |letter: char| is_name(letter) || "/}>)]*~$".contains(letter);
        !before.ends_with(goes_on)
            && !behind.starts_with(is_name)
            && !EXAMPLES.iter().any(|person| behind.starts_with(person))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> usize {
        check(&Tree::of(&[("docs/a.md", text)])).len()
    }

    #[test]
    fn machine_paths_are_found_and_other_paths_are_not() {
        for folder in MACHINE {
            for bad in [format!("see /{folder}/x/y"), format!("\"/{folder}\""), format!("file:/{folder}/x")] {
                assert_eq!(problems(&bad), 1, "{bad}");
            }
            for good in [
                format!("crates/{folder}/x"),
                format!("/{folder}shop"),
                format!("/srv/{folder}"),
                format!("/{folder}/alice/x"),
            ] {
                assert_eq!(problems(&good), 0, "{good}");
            }
        }
    }

    #[test]
    fn hosts_and_settings_of_registries_are_found() {
        for (start, end) in HOSTS {
            assert_eq!(problems(&format!("fetch https://{start}.{end}/x")), 1);
        }
        for (start, end) in SETTINGS {
            assert_eq!(problems(&format!("export {start}{end}=x")), 1);
        }
        assert_eq!(problems("registry+https://github.com/rust-lang/crates.io-index"), 0);
    }
}
