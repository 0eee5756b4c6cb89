//! Lists that come in pages.

use crate::failure::Failure;
use crate::output::Incomplete;

/// The most that the issuer gives at once.
pub(super) const PAGE_SIZE: i32 = 200;

/// Follows the page tokens to the end. An issuer that gives the same token twice would keep us for ever.
pub(super) async fn all_pages<T>(
    mut fetch: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let (items, next) = fetch(page_token.clone()).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        if next == page_token {
            return Err(Incomplete("the next page").into());
        }
        page_token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_pages_are_fetched_in_order() {
        let mut asked = Vec::new();
        let items = all_pages(async |page_token: String| {
            let next = match page_token.as_str() {
                "" => "two",
                "two" => "three",
                _ => "",
            };
            asked.push(page_token);
            Ok((vec![asked.len()], next.to_owned()))
        });
        assert_eq!(items.await.unwrap(), [1, 2, 3]);
        assert_eq!(asked, ["", "two", "three"]);
    }

    #[tokio::test]
    async fn an_issuer_that_repeats_a_page_does_not_keep_us() {
        let failure = all_pages(async |_| Ok((vec![()], "again".to_owned()))).await.unwrap_err();
        assert!(matches!(failure, Failure::Incomplete(Incomplete("the next page"))));
    }
}
