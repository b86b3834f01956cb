//! Percent-encoding (RFC 3986) as AWS uses it in signatures, URLs and form bodies.

use std::fmt::Write as _;

/// Appends `text` with everything encoded that is not unreserved (letters, digits, `-._~`) and not
/// in `keep`; hex digits are upper-case.
pub(crate) fn encode_into(to: &mut String, text: &[u8], keep: &[u8]) {
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
            to.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(to, "%{byte:02X}");
        }
    }
}

/// `text` with everything encoded that is not unreserved.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    encode_into(&mut encoded, text.as_bytes(), b"");
    encoded
}

/// A query string or a form body: `name=value&…`, both parts encoded.
pub fn encode_query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = String::new();
    for (name, value) in pairs {
        if !query.is_empty() {
            query.push('&');
        }
        encode_into(&mut query, name.as_bytes(), b"");
        query.push('=');
        encode_into(&mut query, value.as_bytes(), b"");
    }
    query
}

/// Decodes a part of a query: `+` is a blank, and a `%` that begins no escape stands for itself.
pub(crate) fn decode(text: &str) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        decoded.push(match (byte, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = tail;
                    high << 4 | low
                }
                _ => b'%',
            },
            _ => byte,
        });
    }
    decoded
}

/// The pairs of a query string or form body, in order; empty pairs are left out, and what is not
/// UTF-8 when decoded is replaced by U+FFFD.
pub fn decode_query(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |part| String::from_utf8_lossy(&decode(part)).into_owned();
        (text(name), text(value))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decoding() {
        for (text, decoded) in [
            ("", ""),
            ("a+b%20c", "a b c"),
            ("%C3%a9", "é"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%%41", "%A"),
        ] {
            assert_eq!(decode(text), decoded.as_bytes(), "{text}");
        }
    }

    #[test]
    fn pairs() {
        let pairs: Vec<_> = decode_query("a=1&&b&c=x=y&=z&d=%FF").collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs,
            [pair("a", "1"), pair("b", ""), pair("c", "x=y"), pair("", "z"), pair("d", "\u{fffd}")]
        );
    }

    proptest! {
        #[test]
        fn there_and_back(pairs in prop::collection::vec((".{1,8}", ".{0,8}"), 0..5)) {
            let query = encode_query(pairs.iter().map(|(name, value)| (&**name, &**value)));
            prop_assert!(query.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(decode_query(&query).collect::<Vec<_>>(), pairs);
        }
    }
}
