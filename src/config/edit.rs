//! Replacing the configuration file without losing what only the file has: secrets that went out masked, and comments.

use super::ConfigError;
use crate::model::json::parse_config;
use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstRootNode};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Keys that have a second spelling in the wild: the shown one first.
const SPELLINGS: [(&str, &str); 3] = [("servertype", "Servertype"), ("senderdomain", "senddomain"), ("priorpolicy", "prior")];

/// More keys are a mistake; it also bounds the work of an edit.
const MOST_KEYS: usize = 500;

/// The text of a configuration file after `given` took the place of what it says. `shown` is the configuration as it
/// was shown to the client: of a value that comes back as it was shown the file keeps its own. Keys of the file that are
/// not shown, because nobody knows them, stay, unless `given` has `null` for them.
///
/// # Errors
/// [`ConfigError::Bad`] for something that is no object, and for a mask where there is no secret to keep.
pub fn edit(text: &str, shown: &Value, given: &Value) -> Result<String, ConfigError> {
    let not_an_object =
        || ConfigError::Bad { key: "(the configuration)".into(), value: "something else".into(), allowed: "an object".into() };
    let Value::Object(given) = given else { return Err(not_an_object()) };
    let Value::Object(file) = parse_config(text)? else { return Err(not_an_object()) };
    let is_shown = |key: &str| shown.get(key).is_some() || SPELLINGS.iter().any(|(_, other)| *other == key);
    let mut new: Map<String, Value> =
        file.iter().filter(|(key, _)| !is_shown(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (key, value) in given {
        if value.is_null() {
            new.remove(key);
            continue;
        }
        let spelling = SPELLINGS.iter().find(|(k, _)| k == key).map(|(_, other)| *other);
        let is_set = |v: &&Value| !v.is_null() && v.as_str().is_none_or(|t| !t.trim().is_empty());
        let own = [Some(key.as_str()), spelling].into_iter().flatten().find_map(|k| Some((k, file.get(k).filter(is_set)?)));
        if shown.get(key) != Some(value) {
            if value.as_str() == Some("***") {
                let allowed = "a value: *** stands for one that is set, and none is".into();
                return Err(ConfigError::Bad { key: key.clone(), value: "***".into(), allowed });
            }
            new.insert(key.clone(), value.clone());
        } else if let Some((k, v)) = own {
            new.insert(k.to_owned(), v.clone());
        } // else it is the default, and stays so
    }
    if new.len() > MOST_KEYS {
        let value = format!("an object with {} keys", new.len());
        let allowed = format!("an object with at most {MOST_KEYS} keys");
        return Err(ConfigError::Bad { key: "(the configuration)".into(), value, allowed });
    }
    Ok(with_comments(text, &file, &new).unwrap_or_else(|| format!("{:#}\n", Value::Object(new))))
}

/// Changes only what differs, so that comments and order stay. `None` where that did not work out.
fn with_comments(text: &str, old: &Map<String, Value>, new: &Map<String, Value>) -> Option<String> {
    let options = ParseOptions { allow_missing_commas: true, ..ParseOptions::default() };
    let root = CstRootNode::parse(text.trim_start_matches('\u{feff}'), &options).ok()?;
    let object = root.object_value()?;
    let mut there = HashSet::new();
    for property in object.properties() {
        let name = property.name()?.decoded_value().ok()?;
        there.insert(name.clone());
        match new.get(&name) {
            None => property.remove(),
            Some(value) if old.get(&name) == Some(value) => {}
            Some(value) => property.set_value(input(value)),
        }
    }
    for (name, value) in new.iter().filter(|(name, _)| !there.contains(name.as_str())) {
        object.append(name, input(value));
    }
    let text = root.to_string();
    (parse_config(&text).ok()? == Value::Object(new.clone())).then_some(text)
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(b) => CstInputValue::Bool(*b),
        Value::Number(n) => CstInputValue::Number(n.to_string()),
        Value::String(s) => CstInputValue::String(s.clone()),
        Value::Array(list) => CstInputValue::Array(list.iter().map(input).collect()),
        Value::Object(map) => CstInputValue::Object(map.iter().map(|(k, v)| (k.clone(), input(v))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use serde_json::json;

    const FILE: &str = "{\n  // who we are\n  \"Servertype\": \"receiver\",\n  \"obsak\": \"EXAMPLE-AK\" /* no comma */\n  \"obssk\": \"EXAMPLE-SK\",\n  \
                        \"webhook\": \"http://tms.example.com/?key=EXAMPLE\",\n  \"cdnrate\": \"20M\", // 20 MiB/s\n}\n";

    fn shown() -> Value {
        Config::parse(FILE.as_bytes()).unwrap().0.masked_json()
    }

    fn after(given: &Value) -> Value {
        parse_config(edit(FILE, &shown(), given).unwrap()).unwrap()
    }

    #[test]
    fn what_comes_back_unchanged_changes_nothing() {
        assert_eq!(edit(FILE, &shown(), &shown()).unwrap(), FILE);
    }

    #[test]
    fn secrets_and_comments_stay_and_changes_are_made() {
        let mut given = shown();
        given["cdnrate"] = json!("5M");
        given["btpeers"] = json!(["192.0.2.10:26881"]);
        given["obsak"] = json!("OTHER-AK");
        let text = edit(FILE, &shown(), &given).unwrap();
        assert!(text.contains("// who we are") && text.contains("// 20 MiB/s"), "{text}");
        let new = parse_config(&text).unwrap();
        let want = json!({
            "Servertype": "receiver", "obsak": "OTHER-AK", "obssk": "EXAMPLE-SK",
            "webhook": "http://tms.example.com/?key=EXAMPLE", "cdnrate": "5M", "btpeers": ["192.0.2.10:26881"],
        });
        assert_eq!(new, want);
    }

    #[test]
    fn unknown_keys_and_second_spellings_survive() {
        let text = "{\"servertype\": \"receiver\", \"priorpolicy\": \"\", \"prior\": \"priortime\", \"ours\": [1]}";
        let shown = Config::parse(text.as_bytes()).unwrap().0.masked_json();
        let new = parse_config(edit(text, &shown, &shown).unwrap()).unwrap();
        assert_eq!(new, json!({"servertype": "receiver", "prior": "priortime", "ours": [1]}));
        assert_eq!(Config::parse(new.to_string().as_bytes()).unwrap().0.masked_json(), shown);
        let without = json!({"servertype": "receiver", "prior": "priortime", "ours": null});
        let new = parse_config(edit(text, &shown, &without).unwrap()).unwrap();
        assert_eq!(new, json!({"servertype": "receiver", "prior": "priortime"}));
    }

    #[test]
    fn very_many_keys_are_refused() {
        let many: Map<String, Value> = (0..501).map(|n| (format!("k{n}"), json!(1))).collect();
        assert!(edit(FILE, &shown(), &Value::Object(many)).is_err());
    }

    #[test]
    fn what_is_left_out_is_gone() {
        assert_eq!(
            after(&json!({"servertype": "receiver", "obssk": "***"})),
            json!({"Servertype": "receiver", "obssk": "EXAMPLE-SK"})
        );
    }

    #[test]
    fn a_mask_without_a_secret_is_refused() {
        let e = edit(FILE, &shown(), &json!({"servertype": "receiver", "token": "***"})).unwrap_err();
        assert!(e.to_string().contains("token"), "{e}");
        assert!(edit(FILE, &shown(), &json!([])).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_edited_is_written_anew() {
        let text = edit("{\"servertype\": \"sender\"}", &json!({}), &json!({"servertype": "receiver"})).unwrap();
        assert_eq!(parse_config(text).unwrap(), json!({"servertype": "receiver"}));
    }
}
