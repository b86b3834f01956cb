//! Values in GVariant's text format, as far as units have such types: `'a'`, `true`, `7`, `uint64 7`, `['a', 'b']`,
//! `@as []`. Pure.

use super::wire::Value;

/// The types that may stand before a value.
const TYPES: [(&str, u8); 9] = [
    ("boolean", b'b'),
    ("byte", b'y'),
    ("int16", b'n'),
    ("uint16", b'q'),
    ("int32", b'i'),
    ("uint32", b'u'),
    ("int64", b'x'),
    ("uint64", b't'),
    ("double", b'd'),
];

/// Element types, as signatures.
const ELEMENTS: [&str; 10] = ["b", "y", "n", "q", "i", "u", "x", "t", "d", "s"];

/// Reads a value.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str) -> Result<Value, &'static str> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('@') {
        let (signature, rest) = rest.split_once(' ').ok_or("a value must follow the type")?;
        return typed(signature, rest.trim());
    }
    if !text.starts_with('[') {
        return single(text);
    }
    match elements(text)?.first().map(|first| single(first)).transpose()? {
        None => Err("the type of an empty list must stand before it, as @as []"),
        Some(Value::Number(letter, _)) => array(element(&[letter])?, text),
        Some(_) => array("s", text),
    }
}

/// A value that is no list. Lists of lists are not read: the text would decide how deep that goes.
fn single(text: &str) -> Result<Value, &'static str> {
    for (word, letter) in TYPES {
        if let Some(rest) = text.strip_prefix(word)
            && rest.starts_with(' ')
        {
            return number(letter, rest.trim());
        }
    }
    match text.bytes().next() {
        Some(b'\'' | b'"') => quoted(text).map(Value::Text),
        Some(b't' | b'f') => number(b'b', text),
        Some(b'0'..=b'9' | b'+' | b'-' | b'.') => {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-".contains(&byte));
            number(if plain { b'i' } else { b'd' }, text)
        }
        Some(b'[') => Err("a list of lists is no property of a unit"),
        _ => Err("give a text in quotes, a number, true, false or a list of these in brackets"),
    }
}

/// Seconds as microseconds.
pub(super) fn microseconds(value: &Value) -> Option<Value> {
    const SECOND: u64 = 1_000_000;
    let Value::Number(letter, bits) = *value else { return None };
    let count = match letter {
        b'y' | b'q' | b'u' | b't' => bits.checked_mul(SECOND)?,
        b'n' | b'i' | b'x' => u64::try_from(bits.cast_signed()).ok()?.checked_mul(SECOND)?,
        b'd' => {
            let count = f64::from_bits(bits) * 1e6;
            // 2^53 microseconds are 285 years; up to there the conversion is exact.
            if !(0.0..=9_007_199_254_740_992.0).contains(&count) {
                return None;
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            {
                count as u64
            }
        }
        _ => return None,
    };
    Some(Value::Number(b't', count))
}

fn element(letter: &[u8]) -> Result<&'static str, &'static str> {
    ELEMENTS
        .into_iter()
        .find(|known| known.as_bytes() == letter)
        .ok_or("this type is no property's of a unit")
}

fn typed(signature: &str, text: &str) -> Result<Value, &'static str> {
    match signature.as_bytes() {
        b"s" => quoted(text).map(Value::Text),
        [b'a', letter @ ..] => array(element(letter)?, text),
        [letter] => {
            element(&[*letter])?;
            number(*letter, text)
        }
        _ => Err("this type is no property's of a unit"),
    }
}

fn array(element: &'static str, text: &str) -> Result<Value, &'static str> {
    let values = elements(text)?.into_iter().map(|text| match single(text) {
        // It says its type itself.
        Ok(value) if value.signature() == element => Ok(value),
        _ => typed(element, text),
    });
    Ok(Value::Array(element, values.collect::<Result<_, _>>()?))
}

/// The texts of a list's elements.
fn elements(text: &str) -> Result<Vec<&str>, &'static str> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or("a list stands in brackets")?;
    let mut found = Vec::new();
    let (mut start, mut quote, mut escaped) = (0, None, false);
    for (at, byte) in inner.bytes().enumerate() {
        match (quote, byte) {
            _ if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), byte) if byte == open => quote = None,
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b',') => {
                found.push(inner.get(start..at).unwrap_or_default().trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = inner.get(start..).unwrap_or_default().trim();
    if !last.is_empty() || !found.is_empty() {
        found.push(last);
    }
    Ok(found)
}

fn quoted(text: &str) -> Result<String, &'static str> {
    const OPEN: &str = "a text stands between two quotes of one kind";
    let mut rest = text.chars();
    let quote = rest.next().filter(|first| matches!(first, '\'' | '"')).ok_or(OPEN)?;
    let mut plain = String::new();
    loop {
        match rest.next().ok_or(OPEN)? {
            '\\' => plain.push(match rest.next().ok_or(OPEN)? {
                'n' => '\n',
                't' => '\t',
                same @ ('\\' | '\'' | '"') => same,
                _ => return Err("of escapes only \\n, \\t, \\\\, \\' and \\\" are known"),
            }),
            '\0' => return Err("a text has no NUL"),
            end if end == quote => break,
            other => plain.push(other),
        }
    }
    if rest.as_str().is_empty() { Ok(plain) } else { Err("nothing may follow the text") }
}

fn number(letter: u8, text: &str) -> Result<Value, &'static str> {
    const RANGE: &str = "is no number of its type; int64 or uint64 before it makes it a wider one";
    let signed = |least: i64, most: i64| {
        let value = text.parse::<i64>().ok().filter(|value| (least..=most).contains(value));
        value.map(i64::cast_unsigned)
    };
    let unsigned = |most: u64| text.parse::<u64>().ok().filter(|value| *value <= most);
    let bits = match letter {
        b'b' => match text {
            "true" => Some(1),
            "false" => Some(0),
            _ => return Err("give true or false, or a text in quotes"),
        },
        b'y' => unsigned(u8::MAX.into()),
        b'q' => unsigned(u16::MAX.into()),
        b'u' => unsigned(u32::MAX.into()),
        b't' => unsigned(u64::MAX),
        b'n' => signed(i16::MIN.into(), i16::MAX.into()),
        b'i' => signed(i32::MIN.into(), i32::MAX.into()),
        b'x' => signed(i64::MIN, i64::MAX),
        // As JSON, which is read anyway: the library's own parser is 15 kB.
        _ => serde_json::from_slice::<f64>(text.as_bytes()).ok().map(f64::to_bits),
    };
    Ok(Value::Number(letter, bits.ok_or(RANGE)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_units_have() {
        let number = |letter, bits: u64| Value::Number(letter, bits);
        for (text, value) in [
            ("true", number(b'b', 1)),
            (" false ", number(b'b', 0)),
            ("7", number(b'i', 7)),
            ("-7", number(b'i', (-7i64).cast_unsigned())),
            ("1.5", number(b'd', 1.5f64.to_bits())),
            ("-0.25", number(b'd', (-0.25f64).to_bits())),
            ("@d 3", number(b'd', 3f64.to_bits())),
            ("1e3", number(b'd', 1000f64.to_bits())),
            ("uint64 18446744073709551615", number(b't', u64::MAX)),
            ("@t 5", number(b't', 5)),
            ("byte 255", number(b'y', 255)),
            ("'a b'", Value::text("a b")),
            ("\"it's\"", Value::text("it's")),
            (r"'it\'s\n'", Value::text("it's\n")),
            ("['a,]', 'b']", Value::Array("s", vec![Value::text("a,]"), Value::text("b")])),
            ("[1, -2]", Value::Array("i", vec![number(b'i', 1), parse("-2").unwrap()])),
            ("[uint32 1]", Value::Array("u", vec![number(b'u', 1)])),
            ("@au [1,2]", Value::Array("u", vec![number(b'u', 1), number(b'u', 2)])),
            ("@as []", Value::Array("s", vec![])),
        ] {
            assert_eq!(parse(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "word",
            "'",
            "'a",
            "'a'b",
            "2147483648",
            "uint64 -1",
            "byte 256",
            "trues",
            "[]",
            "[1",
            "[1,]",
            "['a', 1]",
            "[[1]]",
            "@a{sv} {}",
            "@t",
            "1e999",
            r"'\x'",
            "<1>",
            "(1,2)",
        ] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
        let deep = "[".repeat(1 << 20) + &"]".repeat(1 << 20);
        assert!(parse(&deep).is_err());
    }

    #[test]
    fn seconds() {
        let of = |text| microseconds(&parse(text).unwrap());
        assert_eq!(of("5"), Some(Value::Number(b't', 5_000_000)));
        assert_eq!(of("byte 5"), Some(Value::Number(b't', 5_000_000)));
        assert_eq!(of("0.25"), Some(Value::Number(b't', 250_000)));
        for bad in ["-1", "-0.5", "'5'", "true", "uint64 18446744073709551615", "1e300"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
