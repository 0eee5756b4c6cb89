//! Rust as the rules see it: without comments and strings, in the same places.
//!
//! Everything that is taken out becomes spaces and line breaks stay, so that an offset in the result is an offset in
//! the file. It knows the lexical grammar that matters (nested comments, raw strings, lifetimes) and no more.

/// The text with comments, strings and characters blanked.
pub(super) fn bare(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut bare = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => find(bytes, at, b"\n").unwrap_or(bytes.len()),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if !is_word_byte(previous(bytes, at)) || is_literal_prefix(bytes, at) => {
                match raw_string(bytes, at) {
                    Some(end) => end,
                    None => {
                        at += 1;
                        continue;
                    }
                }
            }
            b'\'' => match character_end(text, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        blank(&mut bare, at, end);
        at = end;
    }
    String::from_utf8_lossy(&bare).into_owned()
}

/// `code` without the items behind `#[cfg(test)]`.
pub(super) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = code.as_bytes().to_vec();
    let mut from = 0;
    while let Some(found) = code[from..].find(MARK) {
        let start = from + found;
        let end = item_end(code, start + MARK.len());
        blank(&mut rest, start, end);
        from = end;
    }
    String::from_utf8_lossy(&rest).into_owned()
}

/// Where an item ends that begins at `start`: behind its `;`, or behind the brace that closes its first one.
pub(super) fn item_end(code: &str, start: usize) -> usize {
    let mut braces = 0_usize;
    let mut others = 0_usize;
    for (offset, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others = others.saturating_sub(1),
            b'{' => braces += 1,
            b'}' if braces <= 1 => return offset + 1,
            b'}' => braces -= 1,
            b';' if braces == 0 && others == 0 => return offset + 1,
            _ => (),
        }
    }
    code.len()
}

/// The words (identifiers, keywords, numbers) with their offsets.
pub(super) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let bytes = code.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() && !is_word_byte(Some(bytes[at])) {
            at += 1;
        }
        let start = at;
        while at < bytes.len() && is_word_byte(Some(bytes[at])) {
            at += 1;
        }
        (start < at).then(|| (start, &code[start..at]))
    })
}

/// The number of the line, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1
}

fn blank(bytes: &mut [u8], start: usize, end: usize) {
    for byte in &mut bytes[start..end] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

fn is_word_byte(byte: Option<u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii())
}

fn previous(bytes: &[u8], at: usize) -> Option<u8> {
    at.checked_sub(1).map(|index| bytes[index])
}

/// Whether the `r` at `at` follows the `b` of `br"..."` or the `c` of `cr"..."`.
fn is_literal_prefix(bytes: &[u8], at: usize) -> bool {
    matches!(previous(bytes, at), Some(b'b' | b'c'))
        && !is_word_byte(at.checked_sub(2).map(|index| bytes[index]))
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|window| window == what).map(|offset| from + offset)
}

fn comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of the raw string whose `r` is at `start`, if one begins there.
fn raw_string(bytes: &[u8], start: usize) -> Option<usize> {
    let hashes = bytes[start + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    Some(find(bytes, open + 1, &close).map_or(bytes.len(), |at| at + close.len()))
}

/// The end of the character whose quote is at `start`; none if it is a lifetime.
fn character_end(text: &str, start: usize) -> Option<usize> {
    let mut letters = text[start + 1..].char_indices();
    let (_, first) = letters.next()?;
    if first == '\\' {
        let (escaped, _) = letters.next()?;
        let behind = start + 1 + escaped + 1;
        return text[behind..].find('\'').map(|offset| behind + offset + 1);
    }
    let (second_at, second) = letters.next()?;
    (second == '\'').then_some(start + 1 + second_at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked_in_place() {
        for (text, expected) in [
            ("a // b \" c\nd", "a         \nd"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("a\"b", c)"#, "f(      , c)"),
            ("f(r#\"a\"b\"#, c)", "f(        , c)"),
            ("f(br\"a\\\", c)", "f(b     , c)"),
            ("f('\"', '\\'', '\u{e4}', c)", "f(   ,     ,     , c)"),
            ("fn f<'a>(x: &'a str) -> &'a str", "fn f<'a>(x: &'a str) -> &'a str"),
            ("bar r#type for_\"x\"", "bar r#type for_   "),
        ] {
            assert_eq!(bare(text), expected, "{text}");
            assert_eq!(bare(text).len(), text.len());
        }
    }

    #[test]
    fn what_is_for_tests_is_left_out() {
        let code = "fn a() {}\n#[cfg(test)]\n#[path = x]\nmod tests { fn b() { {} } }\nfn c() {}\n#[cfg(test)]\nuse d;\nfn e() {}";
        let kept = without_tests(code);
        let names: Vec<&str> = words(&kept).map(|(_, word)| word).filter(|word| *word != "fn").collect();
        assert_eq!(names, ["a", "c", "e"]);
        assert_eq!(kept.len(), code.len());
    }

    #[test]
    fn words_come_with_their_lines() {
        let code = "one two_2\n three";
        let found: Vec<_> = words(code).map(|(offset, word)| (line_of(code, offset), word)).collect();
        assert_eq!(found, [(1, "one"), (1, "two_2"), (2, "three")]);
    }
}
