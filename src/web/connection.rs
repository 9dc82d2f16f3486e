//! The connections of a server: so many at a time, none on which nothing moves, and none on which a request never ends.

use poem::listener::{Acceptor, TcpAcceptor};
use poem::web::{LocalAddr, RemoteAddr};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// How long a server waits when no connection can be taken: too many files are open, as a rule.
const PAUSE: Duration = Duration::from_millis(100);

/// What a server takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; further clients wait until one is closed.
    pub most: usize,
    /// A connection on which no byte moves for so long, either way, is closed; so is one on which a request still comes in
    /// when so long has passed since its first byte, and nothing was answered.
    pub idle: Duration,
}

/// Takes connections within [`Limits`].
pub struct Bounded {
    inner: TcpAcceptor,
    places: Arc<Semaphore>,
    idle: Duration,
}

impl Bounded {
    pub fn new(inner: TcpAcceptor, limits: Limits) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(limits.most)), idle: limits.idle }
    }
}

impl Acceptor for Bounded {
    type Io = Connection;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.inner.local_addr()
    }

    async fn accept(&mut self) -> io::Result<(Connection, LocalAddr, RemoteAddr, poem::http::uri::Scheme)> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        loop {
            match self.inner.accept().await {
                Ok((stream, local, remote, scheme)) => {
                    let connection = Connection {
                        stream,
                        idle: self.idle,
                        moved: Instant::now(),
                        asks_since: None,
                        alarm: Box::pin(sleep(self.idle)),
                        _place: place,
                    };
                    return Ok((connection, local, remote, scheme));
                }
                // Without a pause the server would ask again at once, for as long as it lasts.
                Err(e) => {
                    tracing::debug!(error = %e, "no connection can be taken");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// A connection that ends with an error when nothing moves on it.
pub struct Connection {
    stream: TcpStream,
    idle: Duration,
    moved: Instant,
    /// When the first byte came that was not answered yet.
    asks_since: Option<Instant>,
    alarm: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn answered(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(n)) if *n > 0) {
            self.asks_since = None;
        }
    }

    /// Notes what moved; what waits is given up when it has waited for long enough.
    fn watched<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.moved = Instant::now();
            return polled;
        }
        // Set anew only when it rings: most connections move all the time.
        while self.alarm.as_mut().poll(cx).is_ready() {
            let end = self.moved + self.idle;
            if end <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.as_mut().reset(end);
        }
        Poll::Pending
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            let now = Instant::now();
            let since = *self.asks_since.get_or_insert(now);
            // One byte now and then would hold the place for ever.
            if now.duration_since(since) > self.idle {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        self.watched(cx, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.answered(&polled);
        self.watched(cx, polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.answered(&polled);
        self.watched(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
