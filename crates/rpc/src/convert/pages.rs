//! Pages: sizes, tokens, and pages that fit into one message.
//!
//! A page token is the place where the next page begins. It is opaque to clients and no secret: who may see what is
//! checked on every page.

use std::fmt::Display;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;

use crate::api::Page;
use crate::refused::Refused;

const DEFAULT_SIZE: usize = 50;
const LARGEST_SIZE: usize = 200;

/// Bytes of items in one answer, well below what one message may have.
const PAGE_BYTES: usize = 192 * 1024;

/// What a page token may have at most.
const TOKEN_LIMIT: usize = 200;

/// 0 is the default.
pub(crate) fn size(field: &'static str, wire: i32) -> Result<usize, Refused> {
    match usize::try_from(wire) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) if size <= LARGEST_SIZE => Ok(size),
        _ => Err(Refused::field(field, format!("must be 0 (for {DEFAULT_SIZE}) to {LARGEST_SIZE}"))),
    }
}

/// The place that a token names; none for the first page.
pub(crate) fn read_token<T, E>(
    field: &'static str,
    token: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Refused> {
    if token.is_empty() {
        return Ok(None);
    }
    let refused = || Refused::field(field, "is not the next_page_token of a page before");
    if token.len() > TOKEN_LIMIT {
        return Err(refused());
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
    let text = String::from_utf8(bytes).map_err(|_| refused())?;
    parse(&text).map(Some).map_err(|_| refused())
}

/// The token for a place; empty when there is no next page.
pub(crate) fn write_token(place: Option<impl Display>) -> String {
    place.map(|place| URL_SAFE_NO_PAD.encode(place.to_string())).unwrap_or_default()
}

/// As many items, from the first, as one answer holds, and the token for the rest. At least one item always fits.
pub(crate) fn write<T, C: Display, M: Message>(
    page: Page<T, C>,
    wire: impl Fn(&T) -> M,
    place_after: impl Fn(&T) -> C,
) -> (Vec<M>, String) {
    let mut messages = Vec::with_capacity(page.items.len());
    let mut bytes = 0;
    for (index, item) in page.items.iter().enumerate() {
        let message = wire(item);
        bytes += message.encoded_len();
        if bytes > PAGE_BYTES && index > 0 {
            return (messages, write_token(Some(place_after(&page.items[index - 1]))));
        }
        messages.push(message);
    }
    (messages, write_token(page.next))
}

#[cfg(test)]
mod tests {
    use shorepass_core::id::LeaseId;
    use shorepass_core::name::Name;

    use super::*;

    #[test]
    fn sizes_have_a_default_and_a_most() {
        assert_eq!(size("page_size", 0), Ok(50));
        assert_eq!(size("page_size", 1), Ok(1));
        assert_eq!(size("page_size", 200), Ok(200));
        for bad in [-1, 201, i32::MIN, i32::MAX] {
            assert_eq!(size("page_size", bad).unwrap_err().metadata[0].1, "page_size", "{bad}");
        }
    }

    #[test]
    fn tokens_are_read_back() {
        let name = Name::parse("web").unwrap();
        let token = write_token(Some(&name));
        assert_eq!(read_token("page_token", &token, Name::parse), Ok(Some(name)));
        assert_eq!(read_token("page_token", "", Name::parse), Ok(None));
        assert_eq!(write_token(None::<Name>), "");
    }

    #[test]
    fn other_tokens_are_refused() {
        let of_a_name = write_token(Some("web"));
        let long = "a".repeat(TOKEN_LIMIT + 1);
        for bad in ["garbage!", "====", "_w", &of_a_name, &long] {
            let refused = read_token("page_token", bad, LeaseId::parse).unwrap_err();
            assert_eq!(refused.metadata, [("field", "page_token".to_owned())], "{bad}");
        }
    }

    #[test]
    fn a_page_that_is_too_large_goes_on_where_it_was_cut() {
        let page = Page { items: vec![1u64, 2, 3, 4], next: Some(4u64) };
        let (messages, token) = write(page, |_| "x".repeat(PAGE_BYTES / 2 - 100), |item| *item);
        assert_eq!(messages.len(), 2);
        assert_eq!(token, write_token(Some(2)));
        let page = Page { items: vec![1u64], next: None };
        let (messages, token) = write(page, |_| "x".repeat(PAGE_BYTES * 2), |item| *item);
        assert_eq!((messages.len(), token.as_str()), (1, ""));
    }
}
