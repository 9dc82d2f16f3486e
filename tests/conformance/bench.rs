//! One scenario's run through its cases. Differences are collected, so that one run shows all of them.

use super::asking::{Answer, Ask, Client};
use super::cases::{self, Case, Stage};
use super::compare;
use super::examples;
use super::world::{PATIENCE, until};
use serde_json::Value;
use std::collections::BTreeSet;

pub struct Bench {
    stage: Stage,
    done: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Bench {
    pub fn new(stage: Stage) -> Self {
        Self { stage, done: BTreeSet::new(), wrong: Vec::new() }
    }

    /// Notes a difference; the scenario goes on.
    pub fn note(&mut self, what: &str, wrong: impl IntoIterator<Item = String>) {
        self.wrong.extend(wrong.into_iter().map(|w| format!("{what}: {w}")));
    }

    pub fn check(&mut self, fine: bool, what: &str, got: &dyn std::fmt::Debug) {
        if !fine {
            self.wrong.push(format!("{what}: {got:?}"));
        }
    }

    /// The case of an example of this stage; marks it as done.
    pub fn case(&mut self, file: &'static str) -> &'static Case {
        let case = cases::find(file).unwrap_or_else(|| panic!("{file} has no case"));
        assert_eq!(case.stage, self.stage, "{file} belongs to another stage");
        self.done.insert(file.to_owned());
        case
    }

    /// Sends a request and compares the reply with its example.
    pub async fn reply(&mut self, client: &Client<'_>, file: &'static str, ask: Ask) -> Value {
        self.reply_given(client, file, ask, &[]).await
    }

    pub async fn reply_given(&mut self, client: &Client<'_>, file: &'static str, ask: Ask, given: &[(&str, Value)]) -> Value {
        let ask = ask.id(id_of(&examples::json(file)).as_deref());
        let answer = client.ask(&ask).await;
        self.compare(client, file, answer, given)
    }

    /// Asks until the reply is in the state that the example shows, and compares that one.
    pub async fn reply_when(
        &mut self,
        client: &Client<'_>,
        file: &'static str,
        ask: Ask,
        given: &[(&str, Value)],
        ready: impl Fn(&Value) -> bool,
    ) -> Value {
        let ask = ask.single().id(id_of(&examples::json(file)).as_deref());
        let answer = answer_when(client, &ask, &format!("the state of {file}"), ready).await;
        self.compare(client, file, answer, given)
    }

    fn compare(
        &mut self,
        client: &Client<'_>,
        file: &'static str,
        answer: Result<Answer, String>,
        given: &[(&str, Value)],
    ) -> Value {
        let case = self.case(file);
        match answer {
            Ok(answer) => {
                let wrong = compare::reply(case, &examples::json(file), &answer, &client.map, given);
                let reply = answer.reply;
                self.note(file, wrong.into_iter().map(|w| format!("{w}\n    in {reply}")));
                reply
            }
            Err(e) => {
                self.note(file, [e]);
                Value::Null
            }
        }
    }

    /// A verdict and a text that no example shows: rows of the decision tables and of the lists. The text is written
    /// in the examples' world; with `…` at its end the reply may go on.
    pub async fn says(&mut self, client: &Client<'_>, row: &str, ask: Ask, ok: bool, desc: &str) -> Value {
        let answer = client.ask(&ask).await;
        self.said(client, row, &ask, answer, ok, desc)
    }

    /// The same of the first reply that is `ready`, which is asked for until it comes.
    pub async fn says_when(
        &mut self,
        client: &Client<'_>,
        row: &str,
        ask: Ask,
        ok: bool,
        desc: &str,
        ready: impl Fn(&Value) -> bool,
    ) -> Value {
        let ask = ask.single();
        let answer = answer_when(client, &ask, row, ready).await;
        self.said(client, row, &ask, answer, ok, desc)
    }

    fn said(&mut self, client: &Client<'_>, row: &str, ask: &Ask, answer: Result<Answer, String>, ok: bool, desc: &str) -> Value {
        match answer {
            Ok(answer) => {
                let mut wrong = compare::envelope(&answer);
                let (status, said) = (&answer.reply["return_status"], &answer.reply["return_content"]["desc"]);
                let (status_wanted, wanted) = (ok.to_string(), client.map.text(desc));
                let as_wanted = match wanted.strip_suffix('…') {
                    Some(begin) => said.as_str().is_some_and(|s| s.starts_with(begin)),
                    None => *said == wanted.as_str(),
                };
                if *status != status_wanted.as_str() || !as_wanted {
                    wrong.push(format!("{status} {said}\n    not {status_wanted:?} {wanted:?}"));
                }
                self.note(&format!("{row} ({})", ask.file()), wrong);
                answer.reply
            }
            Err(e) => {
                self.note(row, [e]);
                Value::Null
            }
        }
    }

    /// Every case of the stage was reached, and every reply was right.
    pub fn finish(mut self) {
        let all = cases::CASES.iter().filter(|c| c.stage == self.stage).map(|c| c.file);
        let missing: Vec<String> =
            all.filter(|f| !self.done.contains(*f)).map(|f| format!("{f}: its case was not reached")).collect();
        self.wrong.extend(missing);
        let wrong = std::mem::take(&mut self.wrong);
        assert!(wrong.is_empty(), "{} differences from the protocol\n{}\n", wrong.len(), wrong.join("\n"));
    }
}

impl Drop for Bench {
    /// A scenario that broke off still tells what it saw before.
    fn drop(&mut self) {
        if std::thread::panicking() && !self.wrong.is_empty() {
            eprintln!("differences from the protocol before that\n{}\n", self.wrong.join("\n"));
        }
    }
}

/// The first reply that is `ready`, or the first that is none.
async fn answer_when(client: &Client<'_>, ask: &Ask, what: &str, ready: impl Fn(&Value) -> bool) -> Result<Answer, String> {
    until(what, PATIENCE, async || match client.ask(ask).await {
        Ok(answer) if !ready(&answer.reply["return_content"]) => None,
        other => Some(other),
    })
    .await
}

/// The id under whichever spelling the example has; fragments have none.
fn id_of(example: &Value) -> Option<String> {
    let spellings = ["message_id", "request_message_id", "reqest_message_id"];
    spellings.iter().find_map(|key| example[key].as_str()).map(str::to_owned)
}
