//! Pages of lists. A token holds the last key that was sent, so it keeps working while items come
//! and go.

use protocol::aws_json::ApiError;

use super::errors;

/// A page of `items` (in the order of their keys) after `token`.
///
/// `max` is the caller's `maxResults`; `most` what is allowed and taken without it. Returns the
/// items and the token of the next page, if there is one.
///
/// # Errors
/// `InvalidParameterException` for a token that is none, or a number out of range.
pub(crate) fn page<T>(
    items: impl Iterator<Item = (String, T)>,
    token: Option<&str>,
    max: Option<i32>,
    most: usize,
) -> Result<(Vec<T>, Option<String>), ApiError> {
    let after = token.map(decode).transpose()?;
    let limit = match max {
        None => most,
        Some(max) => usize::try_from(max)
            .ok()
            .filter(|max| (1..=most.max(100)).contains(max))
            .ok_or_else(|| errors::invalid("maxResults must be between 1 and 100."))?,
    };
    let mut page = Vec::new();
    let mut last = None;
    for (key, item) in items {
        if after.as_deref().is_some_and(|after| key.as_str() <= after) {
            continue;
        }
        if page.len() == limit {
            return Ok((page, last.as_deref().map(encode)));
        }
        page.push(item);
        last = Some(key);
    }
    Ok((page, None))
}

fn encode(key: &str) -> String {
    hex::encode(key)
}

fn decode(token: &str) -> Result<String, ApiError> {
    hex::decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| errors::invalid("Invalid token"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn items(keys: &[&str]) -> Vec<(String, String)> {
        keys.iter().map(|key| ((*key).to_owned(), key.to_uppercase())).collect()
    }

    #[test]
    fn pages_follow_each_other_though_items_go() {
        let all = items(&["a", "b", "c", "d"]);
        let (first, token) = page(all.into_iter(), None, Some(2), 100).unwrap();
        assert_eq!(first, ["A", "B"]);
        let rest = items(&["a", "c", "d"]);
        let (second, end) = page(rest.into_iter(), token.as_deref(), Some(2), 100).unwrap();
        assert_eq!((second.as_slice(), end), (["C".to_owned(), "D".to_owned()].as_slice(), None));
    }

    #[test]
    fn bad_tokens_and_numbers() {
        for (token, max) in [(Some("zz"), None), (None, Some(0)), (None, Some(101))] {
            let refused = page(items(&["a"]).into_iter(), token, max, 100);
            assert_eq!(refused.unwrap_err().name, "InvalidParameterException");
        }
    }
}
