//! `/v1` from outside: lists in pages, one task with everything, the event stream, health, and problems.

mod api_fake;
mod task_rows;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api_fake::FakeDesk;
use bft2::api::{ApiOptions, service};
use bft2::desk::overview::Overview;
use bft2::model::span::Method;
use bft2::model::task::{Policy, Role, TaskState};
use bft2::store::events::Level;
use bft2::store::legs::LegSample;
use bft2::store::library::{LibraryFile, PackageRow};
use bft2::store::packages::{CompositionRow, PackageFacts, RateRow, ReelRow};
use bft2::store::tasks::NewTask;
use futures::StreamExt as _;
use poem::http::{StatusCode, Uri, header};
use poem::{Endpoint, EndpointExt as _, Request};
use serde_json::{Value, json};
use task_rows::{new_file, reception, sha1};

struct Api {
    desk: Arc<FakeDesk>,
    overview: Overview,
    endpoint: poem::endpoint::BoxEndpoint<'static>,
}

impl Api {
    async fn new() -> Self {
        Self::with(ApiOptions::default()).await
    }

    async fn with(options: ApiOptions) -> Self {
        let (desk, overview) = (Arc::new(FakeDesk::default()), api_fake::overview().await);
        let endpoint = service(desk.clone(), overview.clone(), options).boxed();
        Self { desk, overview, endpoint }
    }

    async fn send(&self, request: Request) -> poem::Response {
        self.endpoint.get_response(request).await
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let response = self.send(Request::builder().uri(path.parse::<Uri>().unwrap()).finish()).await;
        let status = response.status();
        let content_type = response.content_type().unwrap_or_default().to_owned();
        let body: Value = serde_json::from_str(&response.into_body().into_string().await.unwrap()).unwrap();
        if status.is_success() || path == "/v1/ready" {
            assert!(content_type.starts_with("application/json"), "{path}: {content_type}");
        } else {
            assert_eq!(content_type, "application/problem+json", "{path}");
            assert_eq!(body["status"], status.as_u16(), "{path}");
            for key in ["type", "title", "detail"] {
                assert!(body[key].as_str().is_some_and(|t| !t.is_empty()), "{path}: {body}");
            }
        }
        (status, body)
    }

    async fn ok(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// A reception of two files and, of the same name, a distribution.
    async fn fill(&self) -> (i64, i64) {
        let store = &self.overview.store;
        let document = r#"{"name":"Film_FTR","obs":{"ak":"EXAMPLE-AK","sk":"EXAMPLE-SK"}}"#.to_owned();
        let files = || vec![new_file("a.mxf", &[1; 1000]), new_file("sub/b.mxf", &[2; 500])];
        let plan = NewTask { document: document.clone(), ..reception("film.task.json", Path::new("/dcp/Film_FTR"), files()) };
        let sent = NewTask {
            role: Role::Send,
            policy: Policy::Priortime,
            schedules: vec![(Method::Cdn, "00:00-23:59".into()), (Method::Bt, "08:00-18:00".into())],
            seed_until: Some(9_000_000),
            ..plan.clone()
        };
        let recv = store.accept_task(&plan, 1_000).await.unwrap();
        let send = store.accept_task(&sent, 2_000).await.unwrap();
        store.move_task(recv, TaskState::Queues, TaskState::Downloading, "", 3_000).await.unwrap();
        let sample = LegSample {
            task: recv,
            method: Method::Cdn,
            bytes_done: 600,
            add_wire: 700,
            add_sent: 0,
            add_active_ms: 1000,
            rate: 300,
            peers: 0,
            ready: false,
            measured: None,
        };
        for at in 0..3 {
            store.record_legs(&[LegSample { bytes_done: 200 * at, ..sample }], true, 4_000 + at as i64).await.unwrap();
        }
        (recv, send)
    }

    /// The documents of the second package were read.
    async fn describe_package(&self) {
        let rate = Some(RateRow { units: 25, seconds: 1 });
        let reel = ReelRow { picture: Some("p".into()), duration: 20, rate, ..ReelRow::default() };
        let composition = CompositionRow {
            id: "c".into(),
            title: "The Cut".into(),
            kind: "feature".into(),
            duration: 30,
            rate,
            reels: vec![reel, ReelRow { duration: 10, ..ReelRow::default() }],
            reel_count: 2,
        };
        let row = PackageRow {
            path: "/dcp/Two".into(),
            name: "Two".into(),
            verdict: "complete".into(),
            title: "Second Film".into(),
            files: 3,
            bytes: 400,
        };
        let facts = PackageFacts {
            row,
            standard: "SMPTE",
            seen: None,
            compositions: vec![composition],
            assets: vec![],
            needs: vec![],
            claims: vec![],
        };
        assert!(self.overview.store.record_package(&facts, Some(1), 6_000).await.unwrap());
    }

    async fn fill_library(&self) {
        for (dir, title) in [("/dcp/One", "First Film"), ("/dcp/Two", "Second Film")] {
            let name = |file: &str, n: u64| LibraryFile {
                path: format!("{dir}/{file}").into(),
                size: n,
                mtime_ns: 1,
                inode: n,
                sha1: sha1(&n.to_le_bytes()),
            };
            let own = if dir == "/dcp/One" { 7 } else { 8 };
            let package = PackageRow {
                path: dir.into(),
                name: dir[5..].into(),
                verdict: "complete".into(),
                title: title.into(),
                files: 3,
                bytes: 400,
            };
            let files = [name("ASSETMAP.xml", 100), name("reel_1.mxf", 300), name("own.mxf", own)];
            self.overview.store.put_package(&package, &files, 5_000).await.unwrap();
        }
    }
}

#[tokio::test]
async fn tasks_are_listed_newest_first_in_pages() {
    let api = Api::new().await;
    assert_eq!(api.ok("/v1/tasks").await, json!({"items": []}));
    let (recv, send) = api.fill().await;
    let all = api.ok("/v1/tasks").await;
    assert_eq!((&all["items"][0]["id"], &all["items"][1]["id"], &all["next"]), (&json!(send), &json!(recv), &Value::Null));
    let first = api.ok("/v1/tasks?limit=1").await;
    assert_eq!(first["items"].as_array().map(Vec::len), Some(1));
    let second = api.ok(&format!("/v1/tasks?limit=1&cursor={}", first["next"].as_str().unwrap())).await;
    assert_eq!((&second["items"][0], second.get("next")), (&all["items"][1], None));

    let task = &second["items"][0];
    for (key, want) in [
        ("task", json!("film.task.json")),
        ("role", json!("receiver")),
        ("package", json!("Film_FTR")),
        ("state", json!("downloading")),
        ("reason", json!("")),
        ("policy", json!("fulltime")),
        ("ratio", json!("0:0:1")),
        ("bytes_total", json!(1500)),
        ("bytes_done", json!(0)),
        ("percent", json!(0.0)),
        ("eta_minutes", json!(-1)),
    ] {
        assert_eq!(task[key], want, "{key}");
    }
    let at = task["created_at"].as_str().unwrap();
    assert_eq!(chrono::DateTime::parse_from_rfc3339(at).unwrap().timestamp_millis(), 1_000);
    assert!(task.get("finished_at").is_none() && task.get("seed_until").is_none(), "no nulls: {task}");
    for (query, want) in [
        ("role=sender", vec![send]),
        ("role=receiver", vec![recv]),
        ("state=queues", vec![send]),
        ("search=FTR", vec![send, recv]),
        ("search=ftr&role=receiver", vec![recv]),
        ("search=nothing", vec![]),
        ("search=%25", vec![]),
        ("search=", vec![send, recv]),
    ] {
        let found = api.ok(&format!("/v1/tasks?{query}")).await;
        let ids: Vec<i64> = found["items"].as_array().unwrap().iter().map(|t| t["id"].as_i64().unwrap()).collect();
        assert_eq!(ids, want, "{query}");
    }
}

#[tokio::test]
async fn a_task_has_legs_samples_and_files() {
    let api = Api::new().await;
    let (recv, _) = api.fill().await;
    let got = api.ok("/v1/tasks/receiver/film.task.json").await;
    assert_eq!(got["task"]["id"], recv);
    let leg = &got["legs"][0];
    for (key, want) in
        [("method", json!("cdn")), ("state", json!("waiting")), ("bytes_total", json!(1500)), ("bytes_wire", json!(2100))]
    {
        assert_eq!(leg[key], want, "{key}");
    }
    let samples = got["samples"].as_array().unwrap();
    let done: Vec<_> = samples.iter().map(|s| s["bytes_done"].as_i64().unwrap()).collect();
    assert_eq!(done, [0, 200, 400], "oldest first");
    let file = &got["files"][1];
    let want = json!({"path": "sub/b.mxf", "size": 500, "sha1": sha1(&[2; 500]).to_string(), "method": "cdn", "state": "waiting", "bytes_done": 0});
    assert_eq!(*file, want);
    let page = api.ok("/v1/tasks/receiver/film.task.json/files?limit=1").await;
    assert_eq!((&page["items"][0]["path"], &page["next"]), (&json!("a.mxf"), &json!("0")));
    let page = api.ok("/v1/tasks/receiver/film.task.json/files?limit=1&cursor=0").await;
    assert_eq!((&page["items"][0]["path"], page.get("next")), (&json!("sub/b.mxf"), None));
    let taskfile = api.ok("/v1/tasks/sender/film.task.json/taskfile").await;
    assert_eq!(taskfile["name"], "Film_FTR");
}

#[tokio::test]
async fn cancel_reaches_the_desk_with_its_role() {
    let api = Api::new().await;
    let (_, send) = api.fill().await;
    let post =
        |path: &'static str| api.send(Request::builder().method(poem::http::Method::POST).uri(Uri::from_static(path)).finish());
    let response = post("/v1/tasks/sender/film.task.json/cancel").await;
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = serde_json::from_str(&response.into_body().into_string().await.unwrap()).unwrap();
    assert_eq!(body["id"], send);
    assert_eq!(api.desk.calls(), [r#"cancel_of sender "film.task.json""#]);
    let response = post("/v1/tasks/sender/other.task.json/cancel").await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(api.desk.calls().is_empty());
}

#[tokio::test]
async fn a_priority_reaches_the_desk() {
    let api = Api::new().await;
    api.fill().await;
    let post = |path: &'static str, body: &'static str| {
        let request = Request::builder().method(poem::http::Method::POST).uri(Uri::from_static(path));
        api.send(request.content_type("application/json").body(body))
    };
    let response = post("/v1/tasks/sender/film.task.json/priority", r#"{"priority": -7}"#).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(api.desk.calls(), [r#"set_priority sender "film.task.json" -7"#]);
    for (path, body, status) in [
        ("/v1/tasks/sender/other.task.json/priority", r#"{"priority": 1}"#, StatusCode::NOT_FOUND),
        ("/v1/tasks/sender/film.task.json/priority", r#"{"priority": 1001}"#, StatusCode::BAD_REQUEST),
        ("/v1/tasks/sender/film.task.json/priority", r#"{"priority": "high"}"#, StatusCode::BAD_REQUEST),
        ("/v1/tasks/sender/film.task.json/priority", "{}", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(post(path, body).await.status(), status, "{path} {body}");
    }
    assert!(api.desk.calls().is_empty());
}

#[tokio::test]
async fn the_library_can_be_searched() {
    let api = Api::new().await;
    api.fill_library().await;
    let paths = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap().to_owned()).collect()
    };
    let mut all = Vec::new();
    let mut query = "/v1/library/files?limit=4".to_owned();
    loop {
        let page = api.ok(&query).await;
        all.extend(paths(&page));
        let Some(next) = page["next"].as_str() else { break };
        let next = percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC);
        query = format!("/v1/library/files?limit=4&cursor={next}");
    }
    let want = ["ASSETMAP.xml", "own.mxf", "reel_1.mxf"];
    let want: Vec<String> = ["One", "Two"].iter().flat_map(|p| want.map(|f| format!("/dcp/{p}/{f}"))).collect();
    assert_eq!(all, want);
    assert_eq!(paths(&api.ok("/v1/library/files?search=REEL").await), ["/dcp/One/reel_1.mxf", "/dcp/Two/reel_1.mxf"]);
    assert_eq!(paths(&api.ok("/v1/library/files?search=reel&package=/dcp/Two").await), ["/dcp/Two/reel_1.mxf"]);
    let hash = sha1(&7u64.to_le_bytes()).to_string().to_uppercase();
    assert_eq!(paths(&api.ok(&format!("/v1/library/files?sha1={hash}")).await), ["/dcp/One/own.mxf"]);
    let packages = api.ok("/v1/library/packages?search=second").await;
    assert_eq!((&packages["items"][0]["package"], &packages["items"][0]["bytes"]), (&json!("Two"), &json!(400)));

    assert_eq!((&packages["items"][0]["ov"], &packages["items"][0]["compositions"]), (&json!([]), &json!([])));
    api.describe_package().await;
    let described = &api.ok("/v1/library/packages?search=cut").await["items"][0];
    assert_eq!((&described["standard"], &described["verdict"]), (&json!("SMPTE"), &json!("complete")));
    assert_eq!(
        described["compositions"],
        json!([{"id": "c", "title": "The Cut", "kind": "feature", "edit_rate": "25/1", "duration": 30, "seconds": 1.2,
                "reels": [{"number": 1, "picture": "p", "duration": 20, "seconds": 0.8}, {"number": 2, "duration": 10}]}])
    );

    // What wastes most first.
    let first = api.ok("/v1/library/duplicates?limit=1").await;
    let want = json!({"sha1": sha1(&300u64.to_le_bytes()).to_string(), "size": 300, "copies": 2, "bytes_wasted": 300,
                      "paths": ["/dcp/One/reel_1.mxf", "/dcp/Two/reel_1.mxf"]});
    assert_eq!(first["items"], json!([want]));
    let second = api.ok(&format!("/v1/library/duplicates?limit=1&cursor={}", first["next"].as_str().unwrap())).await;
    assert_eq!((&second["items"][0]["size"], second.get("next")), (&json!(100), None));
}

#[tokio::test]
async fn scans_reach_the_desk_and_refusals_are_problems() {
    let api = Api::new().await;
    let post = async |body: &str| {
        let uri = Uri::from_static("/v1/library/scans");
        let request = Request::builder().method(poem::http::Method::POST).uri(uri).content_type("application/json");
        let response = api.send(request.body(body.to_owned())).await;
        let (status, kind) = (response.status(), response.content_type().unwrap_or_default().to_owned());
        let body: Value = serde_json::from_str(&response.into_body().into_string().await.unwrap()).unwrap();
        assert_eq!(kind == "application/problem+json", !status.is_success(), "{body}");
        (status, body)
    };
    let found = json!({"queued": 3, "known": 2, "gone": 1, "skipped": 0});
    for (body, call) in [
        ("{}", "scan_library None false"),
        (r#"{"path": "", "anew": true}"#, "scan_library None true"),
        (r#"{"path": "/data/dcp/film"}"#, r#"scan_library Some("/data/dcp/film") false"#),
    ] {
        assert_eq!(post(body).await, (StatusCode::OK, found.clone()));
        assert_eq!(api.desk.calls(), [call]);
    }
    for (body, status) in [
        (r#"{"path": "/elsewhere"}"#, StatusCode::BAD_REQUEST),
        (r#"{"path": "/busy"}"#, StatusCode::SERVICE_UNAVAILABLE),
        (r#"{"path": "/cacher"}"#, StatusCode::NOT_FOUND),
        (r#"{"path": "/broken"}"#, StatusCode::INTERNAL_SERVER_ERROR),
        (r#"{"pth": "/data/dcp/film"}"#, StatusCode::BAD_REQUEST),
        (r#"{"anew": "perhaps"}"#, StatusCode::BAD_REQUEST),
        ("hello", StatusCode::BAD_REQUEST),
        ("", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(post(body).await.0, status, "{body}");
    }
    let idle = json!({"files": 3, "bytes": 700, "scanning": false, "state": "idle", "file": "", "rate": 0, "eta_minutes": -1});
    assert_eq!(api.ok("/v1/library/queue").await, idle);
    assert_eq!(api.get("/v1/library/scans").await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn schedules_say_when_windows_open() {
    let api = Api::new().await;
    api.fill().await;
    let items = api.ok("/v1/schedules").await["items"].clone();
    let by = |m: &str| items.as_array().unwrap().iter().find(|s| s["method"] == m).unwrap().clone();
    let all_day = by("cdn");
    assert_eq!((&all_day["open_now"], all_day.get("opens_at"), all_day.get("closes_at")), (&json!(true), None, None));
    let day = by("bt");
    assert_eq!((&day["window"], &day["role"], &day["task"]), (&json!("08:00-18:00"), &json!("sender"), &json!("film.task.json")));
    let open = day["open_now"].as_bool().unwrap();
    assert_eq!((day.get("opens_at").is_some(), day.get("closes_at").is_some()), (!open, open));
}

#[tokio::test]
async fn wrong_requests_are_problems() {
    let api = Api::new().await;
    api.fill().await;
    for (path, want) in [
        ("/v1/tasks?limit=0", StatusCode::BAD_REQUEST),
        ("/v1/tasks?limit=501", StatusCode::BAD_REQUEST),
        ("/v1/tasks?limit=many", StatusCode::BAD_REQUEST),
        ("/v1/tasks?cursor=x", StatusCode::BAD_REQUEST),
        ("/v1/tasks?cursor=-1", StatusCode::BAD_REQUEST),
        ("/v1/tasks?role=postman", StatusCode::BAD_REQUEST),
        ("/v1/tasks?state=lost", StatusCode::BAD_REQUEST),
        ("/v1/events?level=loud", StatusCode::BAD_REQUEST),
        ("/v1/library/files?sha1=0123", StatusCode::BAD_REQUEST),
        ("/v1/library/duplicates?cursor=99999999999", StatusCode::BAD_REQUEST),
        ("/v1/tasks/receiver/other.task.json", StatusCode::NOT_FOUND),
        ("/v1/tasks/receiver/..%2F..%2Fetc", StatusCode::NOT_FOUND),
        ("/v1/tasks/receiver/%00", StatusCode::NOT_FOUND),
        ("/v1/tasks/receiver/other.task.json/files", StatusCode::NOT_FOUND),
        ("/v1/tasks/receiver/other.task.json/taskfile", StatusCode::NOT_FOUND),
        ("/v1/nothing", StatusCode::NOT_FOUND),
        ("/v1", StatusCode::NOT_FOUND),
        ("/v1/tasks/receiver/film.task.json/cancel", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let (status, body) = api.get(path).await;
        assert_eq!(status, want, "{path}: {body}");
    }
    let (status, _) = api.get("/v1/tasks/postman/film.task.json").await;
    assert!(status == StatusCode::NOT_FOUND || status == StatusCode::BAD_REQUEST, "{status}");
    let (_, body) = api.get("/v1/tasks?role=postman").await;
    assert!(body["detail"].as_str().unwrap().contains("expected one of: sender, receiver"), "{body}");
    assert!(api.desk.calls().is_empty());
}

#[tokio::test]
async fn a_token_guards_all_but_health() {
    let api = Api::with(ApiOptions { token: Some("example-token".into()), ..ApiOptions::default() }).await;
    for path in ["/v1/tasks", "/v1/events", "/v1/events/stream", "/v1/tasks/sender/x.task.json/taskfile", "/v1/nothing"] {
        assert_eq!(api.get(path).await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(api.get("/v1/health").await.0, StatusCode::OK);
    let request = Request::builder().uri(Uri::from_static("/v1/tasks")).header(header::AUTHORIZATION, "Bearer example-token");
    assert_eq!(api.send(request.finish()).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn health_and_readiness() {
    let api = Api::new().await;
    let health = api.ok("/v1/health").await;
    assert_eq!(
        (&health["status"], &health["role"], &health["version"]),
        (&json!("ok"), &json!("receiver"), &json!(env!("CARGO_PKG_VERSION")))
    );
    // The conductor has not gone round yet.
    let (status, body) = api.get("/v1/ready").await;
    assert_eq!((status, &body["ready"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)));
    let failing = |body: &Value| -> Vec<String> {
        let checks = body["checks"].as_array().unwrap();
        checks.iter().filter(|c| c["ok"] == false).map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(failing(&body), ["conductor"]);
    api.overview.pulse.beat();
    assert_eq!(api.ok("/v1/ready").await["ready"], true);
    api.overview.store.close().await;
    let (status, body) = api.get("/v1/ready").await;
    assert_eq!((status, failing(&body)), (StatusCode::SERVICE_UNAVAILABLE, vec!["database".to_owned()]));
    // What needs the database is a problem, not a hang and not a panic.
    assert!(api.get("/v1/tasks").await.0.is_server_error());
}

/// The next `id` and `data` of a stream, comments left out.
async fn next(lines: &mut (impl futures::Stream<Item = String> + Unpin)) -> (i64, Value) {
    let (mut id, mut data) = (0, String::new());
    loop {
        let line =
            tokio::time::timeout(Duration::from_secs(30), lines.next()).await.expect("an event").expect("the stream goes on");
        if let Some(text) = line.strip_prefix("id:") {
            id = text.trim().parse().unwrap();
        } else if let Some(text) = line.strip_prefix("data:") {
            data.push_str(text.trim_start());
        } else if line.is_empty() && !data.is_empty() {
            return (id, serde_json::from_str(&data).unwrap());
        }
    }
}

async fn stream(api: &Api, query: &str, last: Option<i64>) -> impl futures::Stream<Item = String> + Unpin + use<> {
    let mut request = Request::builder().uri(format!("/v1/events/stream?{query}").parse::<Uri>().unwrap());
    if let Some(id) = last {
        request = request.header("Last-Event-ID", id.to_string());
    }
    let response = api.send(request.finish()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.content_type().unwrap().starts_with("text/event-stream"));
    let reader = tokio::io::BufReader::new(response.into_body().into_async_read());
    let lines = futures::stream::unfold(tokio::io::AsyncBufReadExt::lines(reader), |mut lines| async move {
        lines.next_line().await.ok().flatten().map(|line| (line, lines))
    });
    Box::pin(lines)
}

#[tokio::test]
async fn events_are_listed_and_followed() {
    let api = Api::new().await;
    let store = api.overview.store.clone();
    let add =
        async |level, kind: &str, task: &str, text: &str| store.add_event(level, kind, task, "api", text, 1_000).await.unwrap();
    add(Level::Info, "recv", "a.task.json", "first").await;
    add(Level::Error, "state", "b.task.json", "second").await;
    let list = api.ok("/v1/events").await;
    let texts: Vec<_> = list["items"].as_array().unwrap().iter().map(|e| e["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["second", "first"]);
    assert_eq!(api.ok("/v1/events?task=a.task.json").await["items"][0]["text"], "first");
    assert_eq!(api.ok("/v1/events?level=error").await["items"][0]["kind"], "state");
    assert_eq!(api.ok("/v1/events?kind=nothing").await["items"], json!([]));

    // From the beginning, and on with what happens then.
    let mut all = stream(&api, "after=0", None).await;
    let (id, event) = next(&mut all).await;
    assert_eq!((id, &event["id"], &event["text"], &event["level"]), (1, &json!(1), &json!("first"), &json!("info")));
    assert_eq!(next(&mut all).await.1["text"], "second");
    // From now on, errors only.
    let mut errors = stream(&api, "level=error", None).await;
    // Where a client that was cut off goes on.
    let mut again = stream(&api, "after=0", Some(2)).await;
    add(Level::Info, "send", "c.task.json", "third").await;
    add(Level::Error, "state", "c.task.json", "fourth").await;
    assert_eq!(next(&mut all).await.1["text"], "third");
    assert_eq!(next(&mut all).await.1["text"], "fourth");
    assert_eq!(next(&mut errors).await.1["text"], "fourth");
    assert_eq!(next(&mut again).await.0, 3);
}

/// Events that a filter leaves out are looked at once, and the numbers of events are not given again.
#[tokio::test]
async fn a_stream_outlives_the_events() {
    let api = Api::new().await;
    let store = api.overview.store.clone();
    let add = async |kind: &str| store.add_event(Level::Info, kind, "", "api", kind, 1_000).await.unwrap();
    for _ in 0..3 {
        add("other").await;
    }
    let mut lines = stream(&api, "after=0&kind=wanted", None).await;
    add("other").await;
    add("wanted").await;
    assert_eq!(next(&mut lines).await.0, 5);
    // All of them are old: the newest stays, so that the next one has a higher number.
    store.prune_events(2_000, 3_000).await.unwrap();
    add("wanted").await;
    assert_eq!(next(&mut lines).await.0, 6);
    // A number of another database: what happens from now on.
    let mut far = stream(&api, "", Some(1_000_000)).await;
    add("wanted").await;
    assert_eq!(next(&mut far).await.0, 7);
}

/// What reads like a task file is given out, however deep it is.
#[tokio::test]
async fn a_deeply_nested_task_file_is_given_out() {
    let api = Api::new().await;
    let deep = format!("{{\"name\":\"x\",\"note\":{}1{}}}", "[".repeat(300), "]".repeat(300));
    let plan = NewTask { document: deep, ..reception("deep.task.json", Path::new("/dcp/x"), vec![new_file("a", &[1; 10])]) };
    api.overview.store.accept_task(&plan, 1_000).await.unwrap();
    let response =
        api.send(Request::builder().uri(Uri::from_static("/v1/tasks/receiver/deep.task.json/taskfile")).finish()).await;
    assert_eq!(response.status(), StatusCode::OK);
}

/// A stream holds a connection: there is a limit, and a stream that ends gives its place back.
#[tokio::test]
async fn streams_are_bounded() {
    let api = Api::new().await;
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(stream(&api, "", None).await);
    }
    let (status, _) = api.get("/v1/events/stream").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    open.pop();
    drop(stream(&api, "", None).await);
}
