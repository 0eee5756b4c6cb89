//! What Rust's privacy cannot keep to one place, because it ends at the crate: the call sites are listed here.
//!
//! A new one, and one more in a file that is listed, is a decision: it gets a row and a reason. A row that nothing
//! uses any more goes. Code that is only compiled for tests may call what it likes; `unsafe` is listed there too.

use super::code;
use super::tree::{File, Tree};
use super::{Problem, code::line_of};

/// Something that only listed places may use.
struct Guarded {
    /// What people call it.
    name: &'static str,
    /// Why it is kept to them.
    why: &'static str,
    /// The offsets of its uses in a file.
    uses: fn(&File) -> Vec<usize>,
    /// Where, how often, and why there.
    sites: &'static [(&'static str, usize, &'static str)],
}

const GUARDED: &[Guarded] = &[
    Guarded {
        name: "Caller::from_verified_peer",
        why: "a caller is what certificate verification found, and nothing else",
        uses: |file| called(&file.production, "from_verified_peer"),
        sites: &[("crates/tls/src/server.rs", 1, "the acceptor, after the handshake")],
    },
    Guarded {
        name: "expose",
        why: "a secret leaves its type only on its way to its owner",
        uses: |file| called(&file.production, "expose"),
        sites: &[
            ("crates/rpc/src/convert/answers.rs", 1, "the token, to the lease's owner"),
            (
                "crates/cluster/src/strict.rs",
                1,
                "a token that nobody is given, to the API server that made it",
            ),
            (
                "crates/cluster/src/own.rs",
                1,
                "the issuer's own token, to the file that only the issuer may read",
            ),
            ("crates/cluster/src/bootstrap.rs", 1, "the same, the first of them"),
            ("crates/cluster/src/witness.rs", 1, "a canary, to the one API server that is asked about it"),
            ("crates/agent/src/socket.rs", 1, "the token, to the local job that asked for it"),
            (
                "crates/agent/src/remote.rs",
                3,
                "join token and job token, to the issuer; and whether the token that came is empty",
            ),
            ("crates/issuer/src/admin/mod.rs", 1, "a new join token, to the operator who asked for it"),
            ("crates/oidc/src/lib.rs", 1, "a job token, to its verification"),
            ("crates/tls/src/authority/rotation.rs", 1, "the key of the CA that follows, to its file"),
            ("crates/tls/src/authority/stored.rs", 1, "the CA's key, to its file"),
            ("crates/tls/src/identity.rs", 2, "an identity, to its file, and the key in it"),
        ],
    },
    Guarded {
        name: "Recorded::durable",
        why: "only a ledger knows that a commit is durable",
        uses: |file| after(&file.production, "Recorded::", called(&file.production, "durable")),
        sites: &[("crates/store/src/ledger.rs", 1, "for both engines, behind their record")],
    },
    Guarded {
        name: "unsafe",
        why: "nothing here needs it",
        uses: |file| words(&file.code, "unsafe"),
        sites: &[],
    },
];

/// Checks that each use is listed and each listed use is there.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    GUARDED.iter().flat_map(|guarded| check_one(tree, guarded)).collect()
}

fn check_one(tree: &Tree, guarded: &Guarded) -> Vec<Problem> {
    let Guarded { name, why, uses, sites } = guarded;
    let mut problems = Vec::new();
    for file in tree.files.iter().filter(|file| file.is_rust()) {
        let uses = uses(file);
        let listed = sites.iter().find(|(path, ..)| *path == file.path).map_or(0, |(_, times, _)| *times);
        for &offset in uses.iter().skip(listed) {
            problems.push(Problem::new(
                &file.path,
                line_of(&file.code, offset),
                format!("{name} is not listed for this place: {why}"),
            ));
        }
    }
    for (path, times, _) in *sites {
        let found = tree.file(path).map_or(0, |file| uses(file).len());
        if found < *times {
            problems.push(Problem::new(
                *path,
                None,
                format!("{name} is listed {times} times and used {found}"),
            ));
        }
    }
    problems
}

/// Where a function of that name is named, but not where it is defined.
fn called(code: &str, function: &str) -> Vec<usize> {
    let mut before = "";
    let mut offsets = Vec::new();
    for (offset, word) in code::words(code) {
        if word == function && before != "fn" {
            offsets.push(offset);
        }
        before = word;
    }
    offsets
}

fn words(code: &str, wanted: &str) -> Vec<usize> {
    code::words(code).filter(|(_, word)| *word == wanted).map(|(offset, _)| offset).collect()
}

fn after(code: &str, mark: &str, offsets: Vec<usize>) -> Vec<usize> {
    offsets.into_iter().filter(|&offset| code[..offset].trim_end().ends_with(mark)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: &str = "\
fn a(token: &Token) {
    // token.expose() in a comment is fine
    print(token.expose());
    map(Token :: expose);
    Caller::from_verified_peer(peer);
    let durable = Recorded::\n        durable();
    let text = \"expose unsafe\";
    unsafe { b() }
}
#[cfg(test)]
mod tests { fn c() { token.expose() } }
";

    #[test]
    fn calls_from_places_that_are_not_listed_are_found() {
        let problems = check(&Tree::of(&[("crates/new/src/lib.rs", BAD)]));
        let found: Vec<_> = problems
            .iter()
            .filter(|problem| problem.path == "crates/new/src/lib.rs")
            .map(|problem| (problem.line.unwrap(), problem.what.split(' ').next().unwrap()))
            .collect();
        let expected = [
            (5, "Caller::from_verified_peer"),
            (3, "expose"),
            (4, "expose"),
            (7, "Recorded::durable"),
            (9, "unsafe"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_definition_is_no_call_and_tests_may_call() {
        let tree = Tree::of(&[
            ("crates/new/src/lib.rs", "pub fn expose(&self) -> &str {}"),
            ("crates/new/tests/it.rs", "fn a() { token.expose() }"),
        ]);
        assert!(!check(&tree).iter().any(|problem| problem.path.starts_with("crates/new")));
    }

    #[test]
    fn a_file_may_call_as_often_as_listed_and_must() {
        let guarded = Guarded {
            name: "expose",
            why: "",
            uses: |file| called(&file.production, "expose"),
            sites: &[("a.rs", 1, "")],
        };
        for (text, problems) in [("x.expose()", 0), ("x.expose(); y.expose()", 1), ("", 1)] {
            assert_eq!(check_one(&Tree::of(&[("a.rs", text)]), &guarded).len(), problems, "{text}");
        }
    }
}
