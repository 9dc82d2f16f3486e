//! Reading JSON that people and old clients wrote: a byte-order mark, comments and trailing commas are accepted, and in
//! `config.json` (edited by hand, its published sample lacks commas) missing commas too. What we write is strict JSON.
//!
//! A strict parser with a repair step was rejected: repairs by text search break strings that look like JSON. JSON5
//! was rejected as too much: single quotes, bare words and hexadecimal numbers are mistakes here, not style.
//!
//! The parser counts nesting itself and refuses at 512 levels, so hostile input cannot exhaust the stack.

use jsonc_parser::ParseOptions;
use serde_json::Value;

/// Why a text is not JSON. Never quotes the text: it may hold keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("it is empty")]
    Empty,
    #[error("it is not UTF-8 text (byte {at})")]
    NotUtf8 { at: usize },
    #[error("line {line}, column {column}: {what}")]
    Syntax { line: usize, column: usize, what: String },
}

/// Accepts a byte-order mark, comments and trailing commas: API requests and task files.
pub fn parse_liberal(text: impl AsRef<[u8]>) -> Result<Value, JsonError> {
    parse(text.as_ref(), false)
}

/// As [`parse_liberal`], and commas may be missing: `config.json`.
pub fn parse_config(text: impl AsRef<[u8]>) -> Result<Value, JsonError> {
    parse(text.as_ref(), true)
}

fn parse(bytes: &[u8], allow_missing_commas: bool) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|e| JsonError::NotUtf8 { at: e.valid_up_to() })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(JsonError::Empty);
    }
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_missing_commas,
        allow_loose_object_property_names: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
    };
    jsonc_parser::parse_to_serde_value(text, &options).map_err(|e| JsonError::Syntax {
        line: e.line_display(),
        column: e.column_display(),
        what: e.kind().to_string(),
    })
}

/// A string, or a number or boolean as its text. `None` for anything else.
pub fn as_text(v: &Value) -> Option<String> {
    match v {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

/// A whole number that is not negative, native (`72`, `72.0`) or as text (`"72"`).
pub fn as_number(v: &Value) -> Option<u64> {
    match v {
        Value::Number(n) => n.as_u64().or_else(|| {
            let f = n.as_f64()?;
            // Above 2^53 a float no longer says which whole number was meant.
            (f >= 0.0 && f.fract() == 0.0 && f <= 9_007_199_254_740_992.0).then_some(f as u64)
        }),
        Value::String(s) => {
            let s = s.trim();
            (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten()
        }
        _ => None,
    }
}

/// A boolean, native or as text; also `1`/`0` (the TMS's settings write `deloldtorrent=1`).
pub fn as_bool(v: &Value) -> Option<bool> {
    match as_text(v)?.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn sloppy_texts_are_read() {
        for text in [
            "{\"a\":[1,2],\"b\":\"x\"}",
            "\u{feff}{\"a\":[1,2],\"b\":\"x\"}",
            "{\"a\":[1,2,],\"b\":\"x\",}",
            "// note\n{\"a\":[1, /* two */ 2],\n\"b\":\"x\" // end\n}\n",
        ] {
            assert_eq!(parse_liberal(text), Ok(json!({"a": [1, 2], "b": "x"})), "{text}");
        }
        assert_eq!(parse_config("{\"a\":1\n\"b\":2}"), Ok(json!({"a": 1, "b": 2})));
    }

    #[test]
    fn wrong_texts_are_refused_with_their_place() {
        for text in
            ["", "  \n", "{", "[1", "{\"a\":}", "{a:1}", "{'a':1}", "[0x1]", "[+1]", "{\"a\":1}{", "{\"a\":1 \"b\":2}", "nul"]
        {
            assert!(parse_liberal(text).is_err(), "{text:?} was accepted");
        }
        let e = parse_liberal("{\n  \"a\": 1\n  \"b\": 2\n}").unwrap_err();
        assert!(matches!(e, JsonError::Syntax { line: 2, .. }), "{e}");
        assert_eq!(parse_liberal(b"{\"a\":\"\xff\"}"), Err(JsonError::NotUtf8 { at: 6 }));
    }

    #[test]
    fn deep_nesting_is_refused_not_fatal() {
        for open in ["[", "{\"a\":", "[{\"a\":"] {
            let text = open.repeat(200_000);
            assert!(parse_liberal(&text).is_err());
            assert!(parse_config(&text).is_err());
        }
        let fine = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(parse_liberal(fine).is_ok());
    }

    #[test]
    fn numbers_and_booleans_in_both_forms() {
        for (v, want) in [
            (json!(72), Some(72)),
            (json!("72"), Some(72)),
            (json!(" 72 "), Some(72)),
            (json!(72.0), Some(72)),
            (json!(-1), None),
            (json!("-1"), None),
            (json!(1.5), None),
            (json!(1e300), None),
            (json!("18446744073709551616"), None),
            (json!(""), None),
            (json!(null), None),
        ] {
            assert_eq!(as_number(&v), want, "{v}");
        }
        for (v, want) in [
            (json!(true), Some(true)),
            (json!("true"), Some(true)),
            (json!("False"), Some(false)),
            (json!(1), Some(true)),
            (json!("0"), Some(false)),
            (json!("yes"), None),
        ] {
            assert_eq!(as_bool(&v), want, "{v}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_liberal(&bytes);
        }
        #[test]
        fn json_like_texts_never_panic(text in "[\\[\\]{}:,\"a1 \\-/*\n\\\\u]{0,60}") {
            let _ = parse_config(&text);
        }
    }
}
