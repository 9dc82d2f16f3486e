//! The API from outside: envelopes, liberal reading, bad bodies, limits and the token.

mod api_fake;

use std::sync::Arc;
use std::time::Duration;

use api_fake::FakeDesk;
use bft2::api::{ApiOptions, service};
use bft2::desk::Progress;
use poem::http::{Method, StatusCode, Uri, header};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::{Endpoint, Request, Server};
use serde_json::{Value, json};

/// Every `POST` endpoint with parameters that name a task.
const POSTED: [&str; 9] =
    ["/gentask", "/taskfilesquery", "/send", "/sends", "/uploadprogress", "/recv", "/progress", "/cprogress", "/cancel"];

/// The API without a network.
struct Api {
    desk: Arc<FakeDesk>,
    endpoint: poem::endpoint::BoxEndpoint<'static>,
}

impl Api {
    async fn new() -> Self {
        Self::with(ApiOptions::default()).await
    }
    async fn with(options: ApiOptions) -> Self {
        use poem::EndpointExt;
        let desk = Arc::new(FakeDesk::default());
        Self { endpoint: service(desk.clone(), api_fake::overview().await, options).boxed(), desk }
    }
    async fn ask(&self, request: Request) -> (StatusCode, Value) {
        let response = self.endpoint.get_response(request).await;
        let status = response.status();
        let text = response.into_body().into_string().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
    /// Posts a body with the content type that curl sends unasked.
    async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path.parse::<Uri>().unwrap())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body.into());
        self.ask(request).await
    }
    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Request::builder().uri(path.parse::<Uri>().unwrap()).finish()).await
    }
    /// Posts, wants 200, and gives the body.
    async fn reply(&self, path: &str, body: impl Into<Vec<u8>>) -> Value {
        let (status, value) = self.post(path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        value
    }
}

/// Looks at the envelope's keys and gives the content.
fn content(reply: &Value, id: &str, method: &str, ok: bool) -> Value {
    let status = if ok { "true" } else { "false" };
    for (key, want) in [
        ("request_message_id", id),
        ("reqest_message_id", id),
        ("message_id", id),
        ("message_type", "response"),
        ("method_name", method),
        ("return_status", status),
        ("message_status", status),
    ] {
        assert_eq!(reply[key], want, "{key} of {reply}");
    }
    assert!(reply["return_content"].is_object(), "{reply}");
    reply["return_content"].clone()
}

fn request(method: &str, params: Value) -> String {
    json!({"message_id": "321", "message_type": "request", "message_source": "tms", "method_name": method, "method_params": params})
        .to_string()
}

#[tokio::test]
async fn every_reply_has_the_same_envelope() {
    let api = Api::new().await;
    api.desk.release.add_permits(1);
    for path in POSTED {
        let method = &path[1..];
        let reply = api.reply(path, request(method, json!({"taskfile": "t", "dcppath": "d"}))).await;
        let content = content(&reply, "321", method, method != "recv");
        if method == "taskfilesquery" {
            assert_eq!(reply["method_params"], content);
            assert_eq!(content, json!({"status": "unfinished", "desc": "process making seed "}));
        } else {
            assert!(reply.get("method_params").is_none(), "{path}");
        }
    }
}

#[tokio::test]
async fn the_reply_is_one_compact_line() {
    let api = Api::new().await;
    let http =
        Request::builder().method(Method::POST).uri(Uri::from_static("/send")).body(request("send", json!({"taskfile": "t"})));
    let response = api.endpoint.get_response(http).await;
    assert!(response.content_type().unwrap().starts_with("application/json"));
    assert_eq!(
        response.into_body().into_string().await.unwrap().trim_end(),
        r#"{"request_message_id":"321","reqest_message_id":"321","message_id":"321","message_type":"response","method_name":"send","return_status":"true","message_status":"true","return_content":{"desc":"succeeded!"}}"#
    );
}

#[tokio::test]
async fn requests_are_read_liberally() {
    let api = Api::new().await;
    let bom = "\u{feff}";
    for (body, id, call) in [
        (
            r#"{"message_id":"1","method_params":{"taskfile":"/t","reactive":"true"}}"#.to_owned(),
            "1",
            r#"send "/t" Some("true")"#,
        ),
        // The samples' trailing commas, a byte order mark, comments, other white space.
        (
            r#"{"message_id":"1","method_params":{"taskfile":"/t","reactive":"false",},}"#.into(),
            "1",
            r#"send "/t" Some("false")"#,
        ),
        (format!("{bom}{{\"message_id\":\"1\",\"method_params\":{{\"taskfile\":\"/t\"}}}}\r\n"), "1", r#"send "/t" None"#),
        ("{/* id */\"message_id\":\"1\", // end\n\"method_params\":{\"taskfile\":\"/t\"}}".into(), "1", r#"send "/t" None"#),
        // Numbers and booleans bare.
        (
            r#"{"message_id":12345,"method_params":{"taskfile":"/t","reactive":true}}"#.into(),
            "12345",
            r#"send "/t" Some("true")"#,
        ),
        (
            r#"{"message_id":18446744073709551615,"method_params":{"taskfile":"/t","reactive":1}}"#.into(),
            "18446744073709551615",
            r#"send "/t" Some("1")"#,
        ),
        // Absent and null fields, unknown fields.
        (r#"{"method_params":{"taskfile":"/t","reactive":null}}"#.into(), "", r#"send "/t" None"#),
        (r#"{"message_id":null,"method_params":{"taskfile":"/t","vip":[1,{"a":2}]},"x":{}}"#.into(), "", r#"send "/t" None"#),
        (r#"{"message_id":"1","method_params":{}}"#.into(), "1", r#"send "" None"#),
        (r#"{"message_id":"1","method_params":null}"#.into(), "1", r#"send "" None"#),
        (r#"{"message_id":"1"}"#.into(), "1", r#"send "" None"#),
        ("{}".into(), "", r#"send "" None"#),
        // The path decides, whatever the method name.
        (r#"{"message_id":"1","method_name":"recv","method_params":{"taskfile":"/t"}}"#.into(), "1", r#"send "/t" None"#),
        // Texts come through as they are.
        (
            r#"{"message_id":"\u4e2d","method_params":{"taskfile":"/片 \"1\".json","reactive":" x "}}"#.into(),
            "中",
            r#"send "/片 \"1\".json" Some(" x ")"#,
        ),
    ] {
        let reply = api.reply("/send", body.clone()).await;
        content(&reply, id, "send", true);
        assert_eq!(api.desk.calls(), [call], "{body}");
    }
}

#[tokio::test]
async fn gentask_passes_everything_on() {
    let api = Api::new().await;
    for (given, want) in [(json!("true"), true), (json!(true), true), (json!("1"), true), (json!(1), true), (json!("TRUE"), true)]
        .into_iter()
        .chain([
            (json!("false"), false),
            (json!(false), false),
            (json!("0"), false),
            (json!(0), false),
            (json!(""), false),
            (Value::Null, false),
        ])
    {
        let params = json!({
            "dcppath": "/d", "taskfile": "/t", "basesubdir": "cfec-001", "btobscdn": "1:1:1", "policy": "fulltime",
            "tracker": "http://tracker.example.com:6969/announce", "seedtime": 72, "datasource": "local",
            "obsurl": "obs://cfec-001/dcps/d", "ak": "EXAMPLE-AK", "sk": "EXAMPLE-SK", "endpoint": "obs.example.com",
            "deloldtorrent": given,
        });
        content(&api.reply("/gentask", request("gentask", params)).await, "321", "gentask", true);
        let call = api.desk.calls().remove(0);
        for part in [
            r#"dcppath: "/d""#,
            r#"taskfile: "/t""#,
            r#"basesubdir: "cfec-001""#,
            r#"btobscdn: "1:1:1""#,
            r#"policy: "fulltime""#,
            r#"tracker: "http://tracker.example.com:6969/announce""#,
            r#"seedtime: "72""#,
            r#"datasource: "local""#,
            r#"obsurl: "obs://cfec-001/dcps/d""#,
            r#"ak: "EXAMPLE-AK""#,
            r#"sk: "EXAMPLE-SK""#,
            r#"endpoint: "obs.example.com""#,
            &format!("deloldtorrent: {want}"),
        ] {
            assert!(call.contains(part), "{part} is not in {call}");
        }
    }
    let reply = api.reply("/gentask", request("gentask", json!({"dcppath": "/d"}))).await;
    assert_eq!(content(&reply, "321", "gentask", false)["desc"], "error, please provide taskfile path.");
}

#[tokio::test]
async fn progress_looks_at_the_method_name() {
    let api = Api::new().await;
    for (path, method, want) in [
        ("/progress", "progress", "progress"),
        ("/progress", "", "progress"),
        ("/progress", "send", "progress"),
        ("/progress", "cprogress", "cprogress"),
        ("/cprogress", "cprogress", "cprogress"),
        ("/cprogress", "progress", "cprogress"),
    ] {
        let reply = api.reply(path, request(method, json!({"taskfile": "t.task.json"}))).await;
        let content = content(&reply, "321", want, true);
        assert_eq!(api.desk.calls(), [format!("{want} \"t.task.json\"")], "{path} {method}");
        if want == "cprogress" {
            let desc = "btseeding dir:/data/transfer/bt/cfec-001/x-tmp";
            assert_eq!(content, json!({"status": "seeding", "Status": "seeding", "desc": desc}));
        } else {
            assert_eq!((&content["totalpercent"], &content["totoalpercent"]), (&json!("33.333%"), &json!("33.333%")));
        }
    }
    let queued =
        Progress { status: "queues".into(), desc: Some("task in queues, no progress now.".into()), ..Progress::default() };
    *api.desk.progress.lock().unwrap() = queued;
    let reply = api.reply("/progress", request("progress", json!({"taskfile": "t.task.json"}))).await;
    let want = json!({"status": "queues", "Status": "queues", "desc": "task in queues, no progress now."});
    assert_eq!(content(&reply, "321", "progress", false), want);
}

#[tokio::test]
async fn a_bad_body_is_answered_in_the_envelope_by_every_endpoint() {
    let api = Api::new().await;
    let deep = format!("{{\"message_id\":\"1\",\"method_params\":{}", "[".repeat(200_000));
    let deep_objects = "{\"a\":".repeat(100_000);
    for body in [
        b"".to_vec(),
        b"   \n".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"17".to_vec(),
        b"\"text\"".to_vec(),
        b"message_id=1".to_vec(),
        b"{\"message_id\":\"1\",\"method_params\":{\"taskfile\":\"/t\"".to_vec(),
        b"{\"message_id\":\"1\"}{}".to_vec(),
        b"{\"message_id\":\"\xff\xfe\"}".to_vec(),
        b"\xff\xfe{\0}\0".to_vec(),
        b"\0\0\0\0".to_vec(),
        b"{\"message_id\":\"\\ud800\"}".to_vec(),
        deep.into_bytes(),
        deep_objects.into_bytes(),
    ] {
        for path in POSTED {
            let reply = api.reply(path, body.clone()).await;
            let content = content(&reply, "", &path[1..], false);
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(content["desc"], "invalid json format:request body", "{path} {shown}");
        }
    }
    assert!(api.desk.calls().is_empty());
    // JSON of the wrong shape: the id is known and is echoed.
    for body in [
        r#"{"message_id":7,"method_params":[]}"#,
        r#"{"message_id":"7","method_params":"t"}"#,
        r#"{"message_id":"7","method_params":{"taskfile":["t"]}}"#,
        r#"{"message_id":"7","method_name":{},"method_params":{"taskfile":"t"}}"#,
    ] {
        let reply = api.reply("/send", body).await;
        assert_eq!(content(&reply, "7", "send", false)["desc"], "invalid json format:request body", "{body}");
    }
    assert!(api.desk.calls().is_empty());
}

#[tokio::test]
async fn the_get_tools_answer_in_plain_text() {
    let api = Api::new().await;
    for (path, want) in
        [("/heartbeat", "2021-05-28 22:32:26 is living."), ("/version", "2.001"), ("/reloadconf", "reload config json ok.")]
    {
        let response = api.endpoint.get_response(Request::builder().uri(Uri::from_static(path)).finish()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.content_type().unwrap().starts_with("text/plain"), "{path}");
        assert_eq!(response.into_body().into_string().await.unwrap(), want);
    }
}

#[tokio::test]
async fn unknown_paths_and_verbs_are_refused_in_the_envelope() {
    let api = Api::new().await;
    for path in ["/", "/nothing", "/send/more", "/docs/x"] {
        let (status, reply) = api.get(path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        content(&reply, "", path.trim_start_matches('/'), false);
    }
    for (verb, path, allowed) in [
        (Method::GET, "/send", "POST"),
        (Method::PUT, "/cprogress", "POST"),
        (Method::POST, "/version", "GET"),
        (Method::DELETE, "/docs", "GET"),
    ] {
        let http = Request::builder().method(verb).uri(Uri::from_static(path)).finish();
        let response = api.endpoint.get_response(http).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(response.headers()[header::ALLOW], allowed, "{path}");
    }
    assert!(api.desk.calls().is_empty());
}

#[tokio::test]
async fn a_token_is_needed_where_one_is_set() {
    let api = Api::with(ApiOptions { token: Some("example-token".into()), ..ApiOptions::default() }).await;
    let ask = |path: &'static str, authorization: Option<&'static str>| {
        let verb = if POSTED.contains(&path) { Method::POST } else { Method::GET };
        let mut http = Request::builder().method(verb).uri(Uri::from_static(path));
        if let Some(value) = authorization {
            http = http.header(header::AUTHORIZATION, value);
        }
        api.endpoint.get_response(http.body(request("send", json!({"taskfile": "/t"}))))
    };
    let guarded = ["/send", "/version", "/reloadconf", "/openapi.json", "/openapi.yaml", "/config", "/docs/x", "/nothing"];
    for path in guarded {
        for wrong in [
            None,
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer example-toke"),
            Some("Bearer example-tokem"),
            Some("Basic example-token"),
            Some("example-token"),
        ] {
            let response = ask(path, wrong).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path} {wrong:?}");
            assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
            assert!(!response.into_body().into_string().await.unwrap().contains("example-token"));
        }
    }
    assert!(api.desk.calls().is_empty());
    for path in guarded {
        assert_ne!(ask(path, Some("bearer example-token")).await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(api.desk.calls(), [r#"send "/t" None"#]);
    // Watchdogs have no token, and browsers send none when they open a page; the page asks for it.
    assert_eq!(ask("/heartbeat", None).await.status(), StatusCode::OK);
    let page = ask("/docs", None).await;
    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.into_body().into_string().await.unwrap().contains("\"scheme\": \"bearer\""));
    assert!(
        !format!("{:?}", ApiOptions { token: Some("example-token".into()), ..ApiOptions::default() }).contains("example-token")
    );
}

#[tokio::test]
async fn pages_of_other_sites_are_not_served() {
    let api = Api::new().await;
    for (origin, want) in [
        (None, StatusCode::OK),
        (Some("http://localhost:8191"), StatusCode::OK),
        (Some("http://www.example.com"), StatusCode::FORBIDDEN),
        (Some("null"), StatusCode::FORBIDDEN),
    ] {
        let mut http =
            Request::builder().method(Method::POST).uri(Uri::from_static("/send")).header(header::HOST, "localhost:8191");
        if let Some(origin) = origin {
            http = http.header(header::ORIGIN, origin);
        }
        let (status, _) = api.ask(http.body(request("send", json!({"taskfile": "/t"})))).await;
        assert_eq!(status, want, "{origin:?}");
    }
    assert_eq!(api.desk.calls().len(), 2);
    // A name of another site that resolves to this machine: its page reads without an Origin.
    for (host, want) in [
        ("localhost:8191", StatusCode::OK),
        ("127.0.0.1:8191", StatusCode::OK),
        ("[::1]:8191", StatusCode::OK),
        ("www.example.com:8191", StatusCode::FORBIDDEN),
        ("127.0.0.1.example.com", StatusCode::FORBIDDEN),
    ] {
        for path in ["/config", "/v1/tasks", "/openapi.json"] {
            let request = Request::builder().uri(Uri::from_static(path)).header(header::HOST, host);
            assert_eq!(api.ask(request.finish()).await.0, want, "{host} {path}");
        }
    }
}

#[tokio::test]
async fn the_body_limit_is_exact() {
    let api = Api::with(ApiOptions { body_limit: 200, ..ApiOptions::default() }).await;
    let body = request("send", json!({"taskfile": "/t"}));
    let fits = format!("{body}{}", " ".repeat(200 - body.len()));
    assert_eq!(api.post("/send", fits.clone()).await.0, StatusCode::OK);
    let (status, reply) = api.post("/send", format!("{fits} ")).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(content(&reply, "", "send", false)["desc"], "request body too large, at most 200 bytes are read");
}

#[tokio::test]
async fn a_busy_node_says_so_and_still_lives() {
    let options = ApiOptions { concurrency: 1, request_timeout: Duration::from_secs(1), ..ApiOptions::default() };
    let api = Api::with(options).await;
    // The first call stays inside: its client gives up, the call goes on and keeps its place.
    let (status, reply) = api.post("/cancel", request("cancel", json!({"taskfile": "t"}))).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    content(&reply, "", "cancel", false);
    assert_eq!(api.desk.calls(), [r#"cancel begins "t""#]);
    let (status, reply) = api.post("/send", request("send", json!({"taskfile": "t"}))).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    content(&reply, "", "send", false);
    assert!(api.desk.calls().is_empty());
    assert_eq!(api.get("/heartbeat").await.0, StatusCode::OK);
    // It ends although nobody waits for it, and the place is free again.
    api.desk.release.add_permits(1);
    api.desk.wait_for_call().await;
    assert_eq!(api.desk.calls(), [r#"cancel ends "t""#]);
    assert_eq!(api.post("/send", request("send", json!({"taskfile": "t"}))).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_call_outlives_its_client() {
    let api = Arc::new(Api::new().await);
    let client = tokio::spawn({
        let api = api.clone();
        async move { api.post("/cancel", request("cancel", json!({"taskfile": "t"}))).await }
    });
    api.desk.wait_for_call().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    api.desk.calls();
    api.desk.release.add_permits(1);
    api.desk.wait_for_call().await;
    assert_eq!(api.desk.calls(), [r#"cancel ends "t""#]);
}

#[tokio::test]
async fn a_broken_call_breaks_nothing_else() {
    let api = Api::new().await;
    let (status, reply) = api.post("/recv", request("recv", json!({"taskfile": "panic"}))).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    content(&reply, "", "recv", false);
    assert_eq!(api.post("/send", request("send", json!({"taskfile": "t"}))).await.0, StatusCode::OK);
}

/// The API behind a real socket.
async fn serve() -> String {
    let acceptor = TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let address = acceptor.local_addr().remove(0).as_socket_addr().copied().unwrap();
    tokio::spawn(Server::new_with_acceptor(acceptor).run(service(
        Arc::new(FakeDesk::default()),
        api_fake::overview().await,
        ApiOptions::default(),
    )));
    format!("http://{address}")
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

#[tokio::test]
async fn ten_megabytes_are_refused_and_the_connection_goes_on() {
    let (base, client) = (serve().await, client());
    let sized = reqwest::Body::from(vec![b'x'; 10 << 20]);
    let piece = bytes::Bytes::from(vec![b'x'; 64 << 10]);
    let chunked =
        reqwest::Body::wrap_stream(futures::stream::iter((0..160).map(move |_| Ok::<_, std::io::Error>(piece.clone()))));
    for body in [sized, chunked] {
        let response = client.post(format!("{base}/send")).body(body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 413);
        let reply: Value = response.json().await.unwrap();
        assert!(content(&reply, "", "send", false)["desc"].as_str().unwrap().contains("1048576 bytes"));
        let body = request("send", json!({"taskfile": "/t"}));
        let reply: Value = client.post(format!("{base}/send")).body(body).send().await.unwrap().json().await.unwrap();
        content(&reply, "321", "send", true);
    }
}

#[tokio::test]
async fn a_client_that_asks_first_need_not_send_ten_megabytes() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let base = serve().await;
    let mut socket = tokio::net::TcpStream::connect(base.trim_start_matches("http://")).await.unwrap();
    let head = "POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10485760\r\nExpect: 100-continue\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(20), socket.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}
