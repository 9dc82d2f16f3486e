//! A socket and what answers on it.

use super::connection::{Bounded, Limits};
use crate::error::Fault;
use poem::listener::{Acceptor as _, Listener as _, TcpListener};
use poem::{Endpoint, IntoResponse, Server};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Open connections of a server, each a file descriptor of the process: many more than a theatre's clients or a CDN
/// have, and few enough to leave files for the transfers. Clients that lost their power leave theirs open for ever: so
/// one on which nothing moves is closed, later than HTTP clients close theirs (after 90 s and less), and later than the
/// longest answer takes. A request may take as long to come in.
const LIMITS: Limits = Limits { most: 1024, idle: Duration::from_secs(120) };

/// How long an answer may take to end at a stop.
const DRAIN: Duration = Duration::from_secs(1);

/// A server at work.
#[derive(Debug)]
pub struct Listening {
    /// Where it listens: the port that was taken if any was wanted.
    pub addr: SocketAddr,
    /// Ends after the stop.
    pub done: JoinHandle<()>,
}

/// Serves an endpoint on an address until stopped. The socket is open when this returns. `what` says in the fault which
/// key or flag named the address.
pub async fn listen<E>(addr: SocketAddr, what: &str, endpoint: E, stop: &CancellationToken) -> Result<Listening, Fault>
where
    E: Endpoint + 'static,
    E::Output: IntoResponse,
{
    listen_within(LIMITS, addr, what, endpoint, stop).await
}

async fn listen_within<E>(
    limits: Limits,
    addr: SocketAddr,
    what: &str,
    endpoint: E,
    stop: &CancellationToken,
) -> Result<Listening, Fault>
where
    E: Endpoint + 'static,
    E::Output: IntoResponse,
{
    let refused = |e: std::io::Error| Fault::local(format!("cannot listen on {addr} ({what}): {e}"));
    let acceptor = TcpListener::bind(addr).into_acceptor().await.map_err(refused)?;
    let addr = acceptor.local_addr().iter().find_map(|a| a.as_socket_addr().copied()).unwrap_or(addr);
    tracing::info!(%addr, what, "listening");
    let stopped = stop.clone().cancelled_owned();
    let server = Server::new_with_acceptor(Bounded::new(acceptor, limits));
    let done = tokio::spawn(async move {
        if let Err(e) = server.run_with_graceful_shutdown(endpoint, stopped, Some(DRAIN)).await {
            tracing::error!(error = %e, "a server ended");
        }
    });
    Ok(Listening { addr, done })
}

#[cfg(test)]
mod tests {
    use super::*;
    use poem::endpoint::make;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    const SHORT: Duration = Duration::from_millis(150);

    /// Asks for `GET /` and for the end of the connection.
    const ASK: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

    /// Stops when the token is dropped. Reads the body of a request, if there is one. Its answer is so large that it does not
    /// fit into the buffers of a connection; that to `/small` is empty.
    async fn server(limits: Limits) -> (SocketAddr, tokio_util::sync::DropGuard) {
        let stop = CancellationToken::new();
        let endpoint = make(|mut request: poem::Request| async move {
            let whole = request.take_body().into_bytes().await.is_ok();
            vec![b'a'; if whole && request.uri().path() != "/small" { 64 << 20 } else { 0 }]
        });
        let server = listen_within(limits, SocketAddr::from(([127, 0, 0, 1], 0)), "a test", endpoint, &stop).await;
        (server.expect("a port").addr, stop.drop_guard())
    }

    async fn connect(addr: SocketAddr, sent: &str) -> TcpStream {
        let mut client = TcpStream::connect(addr).await.expect("connection");
        client.write_all(sent.as_bytes()).await.expect("sent");
        client
    }

    /// How many bytes come until the end of a connection, or until it is cut.
    async fn answer(mut client: TcpStream) -> usize {
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        answer.len()
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_moves_is_closed() {
        let (addr, _stop) = server(Limits { most: 8, idle: SHORT }).await;
        let began = Instant::now();
        for sent in ["", "GET / HT", "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nab"] {
            answer(connect(addr, sent).await).await;
        }
        assert!(began.elapsed() >= SHORT, "they ended after {:?}", began.elapsed());
    }

    /// A byte comes more often than nothing may come, of a head and of a body.
    #[tokio::test]
    async fn a_request_that_never_ends_is_cut() {
        let (addr, _stop) = server(Limits { most: 8, idle: SHORT * 4 }).await;
        for begun in ["GET / HTTP/1.1\r\nx: ", "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\n\r\n"] {
            let began = Instant::now();
            let (mut reading, mut writing) = connect(addr, begun).await.into_split();
            let drip = async {
                while writing.write_all(b"a").await.is_ok() {
                    tokio::time::sleep(SHORT / 3).await;
                }
            };
            let mut answer = Vec::new();
            let cut = async { reading.read_to_end(&mut answer).await };
            let ended = async {
                tokio::select! { () = drip => {}, _ = cut => {} }
            };
            tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it is cut");
            assert!(began.elapsed() >= SHORT * 4, "it was cut after {:?}", began.elapsed());
            assert!(answer.len() < 1000, "{} bytes for nothing that was asked", answer.len());
        }
    }

    /// Many requests over one connection, for longer than one may take.
    #[tokio::test]
    async fn a_connection_that_is_used_stays() {
        let idle = Duration::from_secs(2);
        let (addr, _stop) = server(Limits { most: 8, idle }).await;
        'connection: for _ in 0..10 {
            let mut client = connect(addr, "").await;
            let began = Instant::now();
            while began.elapsed() < idle * 2 {
                let step = Instant::now();
                let answer = ask_slowly(&mut client).await;
                if step.elapsed() > idle / 2 {
                    continue 'connection; // this machine stood still
                }
                let answer = answer.expect("it stays");
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            }
            return;
        }
        panic!("this machine stands still too often");
    }

    async fn ask_slowly(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
        client.write_all(b"POST /small HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nab").await?;
        tokio::time::sleep(SHORT).await;
        client.write_all(b"cde").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(client.read_u8().await?);
        }
        Ok(answer)
    }

    /// It asks for more than fits into the buffers, and reads none of it.
    #[tokio::test]
    async fn who_does_not_read_loses_his_place() {
        let idle = SHORT * 20;
        let (addr, _stop) = server(Limits { most: 1, idle }).await;
        let began = Instant::now();
        let _deaf = connect(addr, ASK).await;
        let second = tokio::time::timeout(Duration::from_secs(60), answer(connect(addr, ASK).await)).await;
        assert!(second.expect("the place is free") > 64 << 20);
        assert!(began.elapsed() >= idle, "it was cut after {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn further_clients_wait_for_a_place() {
        let (addr, _stop) = server(Limits { most: 2, idle: SHORT * 200 }).await;
        let (first, _second) = (connect(addr, ASK).await, connect(addr, ASK).await);
        let mut third = connect(addr, ASK).await;
        let early = tokio::time::timeout(SHORT, third.read_u8()).await;
        assert!(early.is_err(), "no third one at a time: {early:?}");
        drop(first);
        assert!(answer(third).await > 64 << 20, "the place of the first is free");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let (addr, _stop) = server(LIMITS).await;
        let fault = listen(addr, "key listen", make(|_| async {}), &CancellationToken::new()).await.expect_err("taken");
        assert!(fault.to_string().starts_with(&format!("cannot listen on {addr} (key listen): ")), "{fault}");
    }
}
