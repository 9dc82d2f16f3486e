//! A reply beside its example: the envelope first, then every key of the example.

use super::asking::Answer;
use super::cases::{Case, What};
use super::mapping::Mapping;
use serde_json::{Map, Value};

/// Every reply has these keys and no others; `taskfilesquery` has `method_params` as well.
const ENVELOPE: [&str; 8] = [
    "request_message_id",
    "reqest_message_id",
    "message_id",
    "message_type",
    "method_name",
    "return_status",
    "message_status",
    "return_content",
];

/// Section 17, 1 and 2: one envelope for everything, under all spellings.
pub fn envelope(answer: &Answer) -> Vec<String> {
    let (reply, mut wrong) = (&answer.reply, Vec::new());
    let Some(map) = reply.as_object() else { return vec![format!("no object: {reply}")] };
    let repeats = answer.method == "taskfilesquery";
    let mut keys: Vec<&str> = map.keys().map(String::as_str).collect();
    let mut expected: Vec<&str> = ENVELOPE.to_vec();
    expected.extend(repeats.then_some("method_params"));
    keys.sort_unstable();
    expected.sort_unstable();
    if keys != expected {
        wrong.push(format!("keys of the envelope: {keys:?}"));
    }
    for key in &ENVELOPE[..3] {
        if reply[key] != answer.id.as_str() {
            wrong.push(format!("{key} is {}, the request's is {:?}", reply[key], answer.id));
        }
    }
    if reply["message_type"] != "response" || reply["method_name"] != answer.method.as_str() {
        wrong.push(format!("message_type {}, method_name {}", reply["message_type"], reply["method_name"]));
    }
    if !matches!(reply["return_status"].as_str(), Some("true" | "false")) || reply["message_status"] != reply["return_status"] {
        wrong.push(format!("return_status {}, message_status {}", reply["return_status"], reply["message_status"]));
    }
    if !reply["return_content"].is_object() || (repeats && reply["method_params"] != reply["return_content"]) {
        wrong.push(format!("return_content {}, method_params {}", reply["return_content"], reply["method_params"]));
    }
    wrong
}

/// Every key of the example must be in the reply, with the example's value or the one that is settled. `given` are
/// values that only the scenario knows (sizes of its package).
pub fn reply(case: &Case, example: &Value, answer: &Answer, map: &Mapping, given: &[(&str, Value)]) -> Vec<String> {
    let mut wrong = envelope(answer);
    let leaves = leaves(example);
    for (at, shown) in &leaves {
        let got = answer.reply.pointer(at);
        let emit = case.emits.iter().find(|e| e.at == at);
        let what = match emit {
            Some(emit) => &emit.what,
            None => envelope_rule(at),
        };
        if let Err(difference) = fits(what, at, &map.value(shown), got, map, given) {
            let why = emit.map_or_else(String::new, |e| format!(" ({})", e.why));
            wrong.push(format!("{at} {difference}{why}"));
        }
        if emit.is_some_and(|e| e.what.repeats(shown)) {
            wrong.push(format!("{at}: the case settles what the example shows anyway"));
        }
    }
    for emit in case.emits.iter().filter(|e| !leaves.iter().any(|(at, _)| at == e.at)) {
        wrong.push(format!("{}: the case settles a key that the example does not have", emit.at));
    }
    wrong
}

/// Section 17, 2: three samples re-use the request's envelope. `message_type` is `response` all the same, and the
/// request's `message_source` is not repeated.
fn envelope_rule(at: &str) -> &'static What {
    match at {
        "/message_type" => &What::Is("response"),
        "/message_source" => &What::Absent,
        _ => &What::AsShown,
    }
}

fn fits(what: &What, at: &str, shown: &Value, got: Option<&Value>, map: &Mapping, given: &[(&str, Value)]) -> Result<(), String> {
    if matches!(what, What::Absent) {
        return got.map_or(Ok(()), |v| Err(format!("is there: {v}")));
    }
    let got = got.ok_or("is missing")?;
    let text = got.as_str();
    let form = |fine: bool, name: &str| if fine { Ok(()) } else { Err(format!("is {got}, not {name}")) };
    match what {
        What::AsShown => form(got == shown, &shown.to_string()),
        What::Is(settled) => form(text == Some(&map.text(settled)), &format!("{:?}", map.text(settled))),
        What::Given => match given.iter().find(|(g, _)| *g == at) {
            Some((_, value)) => form(got == value, &value.to_string()),
            None => Err("has no value from its scenario".into()),
        },
        What::Percent => form(text.is_some_and(is_percent), "a percentage with three decimals"),
        What::Rate => form(text.is_some_and(is_rate), "a rate in B/s, KB/s or MB/s"),
        What::Count => form(got.is_u64(), "a number"),
        What::CountText => form(text.is_some_and(is_digits), "a number in quotes"),
        What::Minutes => form(got.as_i64().is_some_and(|n| n >= -1), "minutes, -1 for unknown"),
        What::Absent => Ok(()),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Section 5: `99.084%`.
pub fn is_percent(text: &str) -> bool {
    let parts = text.strip_suffix('%').and_then(|t| t.split_once('.'));
    parts.is_some_and(|(whole, rest)| is_digits(whole) && is_digits(rest) && rest.len() == 3)
}

/// Section 5: `3072 B/s`, `10 KB/s`, `4 MB/s`; bytes up to 9999, then 1024s.
pub fn is_rate(text: &str) -> bool {
    text.split_once(' ')
        .is_some_and(|(n, unit)| is_digits(n) && (unit == "MB/s" || (n.len() <= 4 && ["B/s", "KB/s"].contains(&unit))))
}

/// Everything that is not an object, with its pointer.
fn leaves(value: &Value) -> Vec<(String, &Value)> {
    fn walk<'v>(at: &str, map: &'v Map<String, Value>, out: &mut Vec<(String, &'v Value)>) {
        for (key, value) in map {
            let at = format!("{at}/{key}");
            match value {
                Value::Object(inner) => walk(&at, inner, out),
                leaf => out.push((at, leaf)),
            }
        }
    }
    let mut out = Vec::new();
    if let Value::Object(map) = value {
        walk("", map, &mut out);
    }
    out
}

#[test]
fn forms() {
    for (text, percent, rate) in [
        ("99.084%", true, false),
        ("66%", false, false),
        ("0.00%", false, false),
        ("3072 B/s", false, true),
        ("10 KB/s", false, true),
        ("10240 B/s", false, false),
        ("3 K/s", false, false),
        ("", false, false),
    ] {
        assert_eq!((is_percent(text), is_rate(text)), (percent, rate), "{text}");
    }
}
