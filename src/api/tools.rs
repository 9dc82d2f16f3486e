//! `GET /heartbeat`, `/version`, `/reloadconf`, `/showschedules`: plain text for people, scripts and watchdogs.

use poem::web::Data;
use poem_openapi::OpenApi;
use poem_openapi::payload::PlainText;

use super::Tag;
use super::calls::Calls;
use super::example::{Examples, text};

pub(super) struct ToolsApi;

#[OpenApi(tag = "Tag::Service")]
impl ToolsApi {
    /// Is the service alive?
    ///
    /// Local time and a fixed text. Needs no token and is answered on a busy node too.
    #[oai(path = "/heartbeat", method = "get", operation_id = "heartbeat")]
    async fn heartbeat(&self, calls: Data<&Calls>) -> PlainText<String> {
        PlainText(calls.desk().heartbeat())
    }

    /// Version of the protocol
    ///
    /// The number alone.
    #[oai(path = "/version", method = "get", operation_id = "version")]
    async fn version(&self, calls: Data<&Calls>) -> PlainText<String> {
        PlainText(calls.desk().version())
    }

    /// Read the configuration file anew
    ///
    /// Needed after every edit. A faulty file is reported with the key, the value and what is allowed, and the old
    /// configuration stays.
    #[oai(path = "/reloadconf", method = "get", operation_id = "reloadconf")]
    async fn reloadconf(&self, calls: Data<&Calls>) -> poem::Result<PlainText<String>> {
        let desk = calls.shared();
        calls.run("reloadconf", async move { desk.reloadconf().await }).await.map(PlainText)
    }

    /// What is planned for when
    ///
    /// The windows of tasks with the policy `priortime`, by method and by task, and what is being downloaded. For people
    /// and for clients that look for lines; `/v1/schedules` has the same as data.
    #[oai(path = "/showschedules", method = "get", operation_id = "showschedules")]
    async fn showschedules(&self, calls: Data<&Calls>) -> poem::Result<PlainText<String>> {
        let desk = calls.shared();
        calls.run("showschedules", async move { desk.showschedules().await }).await.map(PlainText)
    }
}

pub(super) fn examples() -> Vec<Examples> {
    let get = |path, replies| Examples { path, requests: vec![], replies };
    vec![
        get("/heartbeat", vec![text("alive", "It is alive", "2021-05-28 22:32:26 is living.")]),
        get("/version", vec![text("version", "The version", "2.001")]),
        get("/reloadconf", vec![text("read", "The new configuration holds", "reload config json ok.")]),
        get("/showschedules", vec![text("planned", "Two tasks wait for their windows", SCHEDULES)]),
    ]
}

const SCHEDULES: &str = "Now: 2021-05-28 22:33:57
Scheduls by Methods:
bt schedules
bt next runtime: no schedule
cdn schedules
cfec-001-xiaofang7 priortime: start: 2021-05-28 22:34:00 +0800 CST stop: 2021-05-28 22:37:00 +0800 CST
cdn next runtime:2021-05-28 22:34:00
obs schedules
obs next runtime: no schedule
Schedules by TaskNames:
cfec-001-xiaofang7
bt priortime: none
cdn priortime: start: 2021-05-28 22:34:00 +0800 CST stop: 2021-05-28 22:37:00 +0800 CST
obs priortime: none
All Current Downloading:
cfec-001-xiaofang7 bt:obs:cdn = 0:0:1 priortime cdn: 0 22:34-22:37
";
