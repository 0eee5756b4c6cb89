//! No derived `Debug`, `Clone` or serde on what holds a secret.
//!
//! Found are types by name, types with a wiped buffer in them, and types with a plain text or bytes field that is
//! named like a secret. A type that holds a `Token` may derive `Debug`: `Token` prints its fingerprint, and has
//! nothing else to derive from. Generated messages are looked after by a test of `proto`.

use super::tree::{File, Tree};
use super::{Problem, code};

/// Types that are a secret.
const SECRETS: &[&str] = &["Token", "PrivateKey", "JoinTokenText", "Identity", "MacKey"];

/// Wrappers that are used for secrets only.
const WRAPPERS: &[&str] = &["Zeroizing", "ZeroizeOnDrop", "SecretString"];

/// Field names that stand for a secret, where the type is plain.
const FIELDS: &[&str] =
    &["token", "secret", "password", "passphrase", "bearer", "jwt", "private_key", "join_token", "key_pem"];

/// Types that could hold one in the open.
const PLAIN: &[&str] = &["String", "str", "Vec", "Bytes", "u8"];

/// What must not be derived.
const DERIVES: &[&str] = &["Debug", "Clone", "Copy", "Serialize", "Deserialize"];

/// Types that are found and may stay: file, type, reason.
const ALLOWED: &[(&str, &str, &str)] =
    &[("crates/core/src/mint.rs", "Claims", "`secret` is the name of a Secret, the lease's anchor")];

/// Checks every type of the production code.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    tree.files.iter().flat_map(check_file).collect()
}

fn check_file(file: &File) -> Vec<Problem> {
    let mut problems = Vec::new();
    for derived in derives(&file.production) {
        let forbidden: Vec<&str> =
            derived.traits.iter().copied().filter(|name| DERIVES.contains(name)).collect();
        let allowed = ALLOWED.iter().any(|(path, name, _)| *path == file.path && *name == derived.name);
        if forbidden.is_empty() || allowed {
            continue;
        }
        if let Some(why) = why_secret(&derived) {
            problems.push(Problem::new(
                &file.path,
                code::line_of(&file.production, derived.offset),
                format!(
                    "{} derives {} and {why}: write it by hand, without the secret",
                    derived.name,
                    forbidden.join(", ")
                ),
            ));
        }
    }
    problems
}

fn why_secret(derived: &Derived<'_>) -> Option<String> {
    if SECRETS.contains(&derived.name) {
        return Some("is a secret".to_owned());
    }
    if let Some((_, wrapper)) = code::words(derived.body).find(|(_, word)| WRAPPERS.contains(word)) {
        return Some(format!("holds {wrapper}"));
    }
    let field = plain_fields(derived.body).find(|field| FIELDS.contains(field))?;
    Some(format!("has `{field}` in the open"))
}

/// The fields whose type could hold a secret in the open.
fn plain_fields(body: &str) -> impl Iterator<Item = &str> {
    code::words(body).filter_map(|(offset, name)| {
        let behind = body[offset + name.len()..].trim_start().strip_prefix(':')?;
        let kind = &behind[..behind.find([',', '}']).unwrap_or(behind.len())];
        let is_path = behind.starts_with(':') || body[..offset].ends_with(':');
        let plain = code::words(kind).any(|(_, word)| PLAIN.contains(&word));
        (plain && !is_path).then_some(name)
    })
}

/// A type with what it derives.
struct Derived<'a> {
    offset: usize,
    name: &'a str,
    traits: Vec<&'a str>,
    body: &'a str,
}

fn derives(code: &str) -> Vec<Derived<'_>> {
    let mut found: Vec<Derived<'_>> = Vec::new();
    let starts = code::words(code).filter(|(_, word)| *word == "derive").map(|(offset, _)| offset);
    for start in starts {
        let list_end = code[start..].find(')').map_or(code.len(), |end| start + end);
        let traits = code::words(&code[start..list_end]).skip(1).map(|(_, word)| word);
        let mut behind = code::words(&code[list_end..]).skip_while(|(_, word)| !is_item(word)).skip(1);
        let Some((offset, name)) = behind.next() else { continue };
        let offset = list_end + offset;
        match found.last_mut().filter(|last| last.offset == offset) {
            // A second list on the same type.
            Some(last) => last.traits.extend(traits),
            None => {
                let body = &code[offset + name.len()..code::item_end(code, offset)];
                found.push(Derived { offset, name, traits: traits.collect(), body });
            }
        }
    }
    found
}

fn is_item(word: &str) -> bool {
    matches!(word, "struct" | "enum" | "union")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        check(&Tree::of(&[("a.rs", text)])).into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn derives_on_secrets_are_found() {
        for bad in [
            "#[derive(Debug)] pub struct Token(Zeroizing<String>);",
            "#[derive(PartialEq)] #[derive(Clone)] pub struct PrivateKey { a: u8 }",
            "#[derive(Eq,\n serde::Serialize)]\n#[serde(transparent)]\npub struct A { b: u8, c: zeroize::Zeroizing<Vec<u8>> }",
            "#[cfg_attr(x, derive(Debug))] enum A { B { join_token: Option<String> } }",
            "#[derive(Deserialize)] struct A<'a> { id: u8, token: &'a str }",
        ] {
            assert_eq!(problems(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn what_holds_no_secret_may_derive() {
        for good in [
            "#[derive(PartialEq)] struct Token(u8);",
            "#[derive(Debug)] struct A { token: Token, token_id: String }",
            "#[derive(Clone)] struct A { name: String } struct B { token: String }",
            "#[derive(Debug)] enum A { B(crate::token::Kind) }\nfn f(token: &str) {}",
            "struct A { token: String }",
        ] {
            assert_eq!(problems(good), [""; 0], "{good}");
        }
    }
}
