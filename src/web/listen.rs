//! A socket and what answers on it.

use crate::error::Fault;
use poem::listener::{Acceptor as _, Listener as _, TcpListener};
use poem::{Endpoint, IntoResponse, Server};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A connection on which nothing moves for so long is closed, after the answer it may still wait for: clients that lost
/// their power leave theirs open for ever. Longer than what HTTP clients keep an idle connection for (90 s and less), so
/// none is closed in the moment in which it is used again.
const IDLE: Duration = Duration::from_secs(120);

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
    listen_for(addr, what, endpoint, stop, IDLE).await
}

async fn listen_for<E>(
    addr: SocketAddr,
    what: &str,
    endpoint: E,
    stop: &CancellationToken,
    idle: Duration,
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
    let server = Server::new_with_acceptor(acceptor).idle_timeout(idle);
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

    /// Its answers take longer than a connection may be idle. Stops when the token is dropped.
    async fn slow() -> (SocketAddr, tokio_util::sync::DropGuard) {
        let stop = CancellationToken::new();
        let endpoint = make(|_| async {
            tokio::time::sleep(SHORT * 4).await;
            "late"
        });
        let server = listen_for(SocketAddr::from(([127, 0, 0, 1], 0)), "a test", endpoint, &stop, SHORT).await.expect("a port");
        (server.addr, stop.drop_guard())
    }

    /// What comes until the end of a connection on which this was sent.
    async fn answer(addr: SocketAddr, sent: &str) -> String {
        let mut client = TcpStream::connect(addr).await.expect("connection");
        client.write_all(sent.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an end");
        answer
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_moves_is_closed() {
        let (addr, _stop) = slow().await;
        let began = Instant::now();
        assert_eq!(answer(addr, "").await, "");
        assert!(began.elapsed() >= SHORT, "it ended after {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn an_answer_that_takes_long_is_given_before_its_connection_is_closed() {
        let (addr, _stop) = slow().await;
        let answer = answer(addr, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("late"), "{answer}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let (addr, _stop) = slow().await;
        let fault = listen(addr, "key listen", make(|_| async {}), &CancellationToken::new()).await.expect_err("taken");
        assert!(fault.to_string().starts_with(&format!("cannot listen on {addr} (key listen): ")), "{fault}");
    }
}
