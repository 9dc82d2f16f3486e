//! The embedded tracker over HTTP, as clients see it.

use bft2::web::tracker::{TrackerCounts, TrackerOptions, TrackerState, tracker};
use poem::listener::{Acceptor as _, Listener as _};
use std::sync::{Arc, Mutex};

async fn start(state: Arc<TrackerState>) -> String {
    let acceptor = poem::listener::TcpListener::bind("127.0.0.1:0").into_acceptor().await.unwrap();
    let addr = acceptor.local_addr()[0].as_socket_addr().copied().unwrap();
    tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(tracker(state)));
    format!("http://{addr}")
}

async fn get(url: String) -> (u16, Vec<u8>) {
    let reply = reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
    (reply.status().as_u16(), reply.bytes().await.unwrap().to_vec())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// 20 bytes with everything that is hard: zero, percent, plus, ampersand, space, high bytes.
const HASH: &str = "%00%ff%25%2b%26%20%3d%80%7fabcdefghijk";

#[tokio::test]
async fn members_find_each_other() {
    let state = Arc::new(TrackerState::new(TrackerOptions::default()));
    let base = start(state.clone()).await;
    let announce = |id: char, port: u16, rest: &str| {
        let id = id.to_string().repeat(20);
        format!("{base}/announce?info_hash={HASH}&peer_id={id}&port={port}&uploaded=0&downloaded=0{rest}")
    };
    let (status, reply) = get(announce('s', 7001, "&left=0&compact=1&event=started")).await;
    assert_eq!(
        (status, text(&reply).as_str()),
        (200, "d8:completei1e10:incompletei0e8:intervali30e12:min intervali15e5:peers0:e")
    );
    let (_, reply) = get(announce('l', 7002, "&left=5&compact=1")).await;
    assert!(reply.ends_with(b"5:peers6:\x7f\x00\x00\x01\x1b\x59e"), "{reply:?}");
    // A claimed address is not believed.
    let (_, reply) = get(announce('x', 7003, "&left=5&no_peer_id=1&ip=192.0.2.1&numwant=200")).await;
    assert!(text(&reply).contains("d2:ip9:127.0.0.14:porti7001ee"), "{}", text(&reply));
    assert!(text(&reply).contains("d2:ip9:127.0.0.14:porti7002ee"), "{}", text(&reply));
    let (_, reply) = get(announce('y', 7004, "&left=5&compact=1&numwant=0")).await;
    assert!(reply.ends_with(b"5:peers0:e"), "{reply:?}");
    let (_, reply) = get(format!("{base}/scrape?info_hash={HASH}")).await;
    assert!(reply.starts_with(b"d5:filesd20:\x00\xff%+& =\x80\x7fabcdefghijkd8:completei1e"), "{reply:?}");
    assert!(text(&reply).ends_with("10:incompletei3eeee"), "{}", text(&reply));
    for (id, port) in [('s', 7001), ('l', 7002), ('x', 7003), ('y', 7004)] {
        get(announce(id, port, "&left=0&event=stopped")).await;
    }
    assert_eq!(state.counts(), TrackerCounts::default());
}

#[tokio::test]
async fn failures_are_told_in_the_body() {
    let allowed: Arc<Mutex<Vec<[u8; 20]>>> = Arc::default();
    let list = allowed.clone();
    let state = TrackerState::new(TrackerOptions::default()).only(Box::new(move |hash| list.lock().unwrap().contains(hash)));
    let base = start(Arc::new(state)).await;
    let id = "p".repeat(20);
    for (query, reason) in [
        (String::new(), "info_hash is missing"),
        (format!("?info_hash=%zz&peer_id={id}&port=1"), "info_hash is missing"),
        (format!("?info_hash={HASH}&port=1"), "peer_id is missing"),
        (format!("?info_hash={HASH}&peer_id={id}&port=99999"), "port is missing"),
        (format!("?info_hash={HASH}&peer_id={id}&port=1"), "not authorized"),
    ] {
        let (status, reply) = get(format!("{base}/announce{query}")).await;
        assert_eq!(status, 200);
        assert!(text(&reply).starts_with("d14:failure reason"), "{}", text(&reply));
        assert!(text(&reply).contains(reason), "{query}: {}", text(&reply));
    }
    let (_, reply) = get(format!("{base}/scrape")).await;
    assert!(text(&reply).contains("failure reason"), "{}", text(&reply));
    // The list may change while the tracker runs.
    allowed.lock().unwrap().push(*b"\x00\xff%+& =\x80\x7fabcdefghijk");
    let (_, reply) = get(format!("{base}/announce?info_hash={HASH}&peer_id={id}&port=1")).await;
    assert!(text(&reply).contains("8:interval"), "{}", text(&reply));
    assert_eq!(get(format!("{base}/other")).await.0, 404);
}
