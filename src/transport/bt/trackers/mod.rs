//! Trackers are asked by us, not by librqbit.
//!
//! A tracker is named by a task file or a torrent, which come from outside. librqbit's client reads an answer of any length
//! into memory, believes any list and any interval, and waits for ever on a tracker that hangs. Here an answer has
//! [`answer::MAX_BODY`] bytes and [`answer::MAX_PEERS`] peers at most and half a minute; a tracker is asked no more often than
//! every 15 seconds and at least every hour; one that is away is tried again after ten seconds, then ever later, up to ten
//! minutes. The torrent's own list of trackers counts as well, and is taken out of what librqbit sees.
//!
//! A failure is told once in the log, until the tracker answers again. URLs may hold a key: the log has only the host.

mod answer;
mod inlet;
mod udp;

use super::engine::is_self;
use crate::error::Fault;
use answer::{Answer, INTERVAL, MAX_BODY};
use inlet::{Found, Inlet, Open};
use librqbit::ManagedTorrent;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rand::Rng as _;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

/// Trackers of one torrent that are asked: its own and the task's.
const MAX_TRACKERS: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A whole answer of a tracker.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOKUP: Duration = Duration::from_secs(10);
/// Saying goodbye.
const FAREWELL: Duration = Duration::from_secs(5);
const REDIRECTS: usize = 5;
/// A tracker that is away is tried again after this, then after twice as long, and so on.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(600);

/// A torrent's place at one tracker.
type Place = ([u8; 20], Url);

/// What asks trackers, for all torrents of an engine.
pub(super) struct Trackers {
    http: reqwest::Client,
    inlet: Inlet,
    listen: SocketAddr,
    /// Who has said hello says goodbye before another one says hello.
    places: Mutex<HashMap<Place, Weak<tokio::sync::Mutex<()>>>>,
}

/// A torrent for librqbit, and who asks its trackers.
pub(super) struct Prepared {
    /// The metainfo without trackers.
    pub torrent: Vec<u8>,
    /// The inlet, when there are trackers.
    pub for_engine: Vec<String>,
    trackers: Vec<Url>,
    open: Open,
}

impl Trackers {
    pub async fn start(listen: SocketAddr) -> Result<Self, Fault> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("bftv2/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
            .referer(false)
            .pool_max_idle_per_host(4)
            .build()
            .map_err(|e| Fault::local("cannot set up HTTP for trackers").detail(e))?;
        Ok(Self { http, inlet: Inlet::start(listen.is_ipv6()).await?, listen, places: Mutex::default() })
    }

    /// Of a torrent that [`super::layout::Layout`] has accepted. Announce URLs that cannot be used are left out.
    pub fn prepare(&self, torrent: &[u8], trackers: &[String]) -> Result<Prepared, Fault> {
        let meta = librqbit::torrent_from_bytes(torrent)
            .map_err(|e| Fault::permanent("the torrent cannot be used: it is not a metainfo file").detail(e))?;
        let own = meta.iter_announce().filter_map(|url| std::str::from_utf8(url.as_ref()).ok());
        let mut known = HashSet::new();
        let urls = own.chain(trackers.iter().map(String::as_str)).filter_map(usable).filter(|url| known.insert(url.clone()));
        let trackers: Vec<Url> = urls.take(MAX_TRACKERS).collect();
        let info: &[u8] = meta.info.raw_bytes.as_ref();
        let for_engine = if trackers.is_empty() { Vec::new() } else { self.inlet.urls(meta.info.data.private) };
        let torrent = [b"d4:info".as_slice(), info, b"e"].concat();
        Ok(Prepared { torrent, for_engine, trackers, open: self.inlet.open(meta.info_hash.0) })
    }

    /// Asks from when the torrent has been started until the result is dropped.
    pub fn announce(&self, task: &str, handle: &Arc<ManagedTorrent>, prepared: Prepared) -> Announcing {
        let Prepared { trackers, open, .. } = prepared;
        let swarm = Arc::new(Swarm {
            task: task.to_owned(),
            hash: handle.info_hash().0,
            peer_id: handle.shared().peer_id.0,
            key: rand::random(),
            port: self.listen.port(),
            ipv4_only: self.listen.is_ipv4(),
            torrent: Arc::downgrade(handle),
            last: OnceLock::new(),
        });
        let end = CancellationToken::new();
        let mut again = Vec::new();
        for (n, url) in trackers.into_iter().enumerate() {
            let ring = Arc::new(Notify::new());
            let asking = Asking {
                swarm: swarm.clone(),
                place: self.place((swarm.hash, url.clone())),
                url,
                n,
                http: self.http.clone(),
                listen: self.listen,
                found: open.found.clone(),
                again: ring.clone(),
                end: end.clone(),
            };
            again.push(ring);
            tokio::spawn(asking.run());
        }
        Announcing { again, end, open, swarm }
    }

    fn place(&self, place: Place) -> Arc<tokio::sync::Mutex<()>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, known| known.strong_count() > 0);
        if let Some(known) = places.get(&place).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::default();
        places.insert(place, Arc::downgrade(&new));
        new
    }
}

/// A torrent whose trackers are asked. They are told goodbye when it is dropped.
pub(super) struct Announcing {
    again: Vec<Arc<Notify>>,
    end: CancellationToken,
    open: Open,
    swarm: Arc<Swarm>,
}

impl Announcing {
    /// The torrent starts anew: its trackers are asked as soon as is polite.
    pub fn again(&self) {
        self.open.found.restarted();
        self.again.iter().for_each(|ring| ring.notify_one());
    }
}

impl Drop for Announcing {
    fn drop(&mut self) {
        let _ = self.swarm.last.set(self.swarm.amounts());
        self.end.cancel();
    }
}

/// An announce URL that can be asked.
fn usable(url: &str) -> Option<Url> {
    let url = Url::parse(url.trim()).ok().filter(|u| u.as_str().len() <= 2048 && u.host_str().is_some_and(|h| !h.is_empty()))?;
    match url.scheme() {
        "http" | "https" => Some(url),
        "udp" => url.port().is_some().then_some(url),
        _ => None,
    }
}

/// For the log: user names, paths and queries may hold a key.
fn named(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Who we are in a swarm.
struct Swarm {
    task: String,
    hash: [u8; 20],
    peer_id: [u8; 20],
    key: u32,
    port: u16,
    ipv4_only: bool,
    /// Not held: while a goodbye takes its time, the package's files must be free.
    torrent: Weak<ManagedTorrent>,
    /// When it ended.
    last: OnceLock<Amounts>,
}

impl Swarm {
    fn amounts(&self) -> Amounts {
        if let Some(last) = self.last.get() {
            return *last;
        }
        let Some(stats) = self.torrent.upgrade().map(|t| t.stats()) else { return Amounts::default() };
        Amounts {
            uploaded: stats.uploaded_bytes,
            downloaded: stats.progress_bytes,
            left: stats.total_bytes.saturating_sub(stats.progress_bytes),
        }
    }
}

/// Bytes.
#[derive(Clone, Copy, Default)]
struct Amounts {
    uploaded: u64,
    downloaded: u64,
    left: u64,
}

/// What a tracker is told. `event`: `started`, `completed`, `stopped` or nothing.
struct Figures {
    event: &'static str,
    amounts: Amounts,
}

/// One tracker of one torrent.
struct Asking {
    swarm: Arc<Swarm>,
    place: Arc<tokio::sync::Mutex<()>>,
    url: Url,
    /// Which of the torrent's.
    n: usize,
    http: reqwest::Client,
    listen: SocketAddr,
    found: Arc<Found>,
    again: Arc<Notify>,
    end: CancellationToken,
}

impl Asking {
    async fn run(self) {
        let _place = tokio::select! {
            place = self.place.lock() => place,
            () = self.end.cancelled() => return,
        };
        let Some(torrent) = self.swarm.torrent.upgrade() else { return };
        tokio::select! {
            // An error is seen by the leg.
            started = torrent.wait_until_initialized() => if started.is_err() { return },
            () = self.end.cancelled() => return,
        }
        drop(torrent);
        let (mut known, mut lacked, mut event) = (false, false, "started");
        let (mut retry, mut told) = (*RETRY.start(), false);
        loop {
            let began = Instant::now();
            let figures = self.figures(event);
            lacked |= figures.amounts.left > 0;
            let answer = tokio::select! {
                answer = self.ask(&figures) => answer,
                () = self.end.cancelled() => break,
            };
            let wait = match answer {
                Ok(Answer { wait, mut peers }) => {
                    peers.retain(|p| !is_self(self.listen, *p) && (p.is_ipv4() || !self.swarm.ipv4_only));
                    self.found.put(self.n, peers);
                    if std::mem::take(&mut told) {
                        tracing::info!(task = self.swarm.task, tracker = self.named(), "the tracker answers again");
                    }
                    (known, event, retry) = (true, "", *RETRY.start());
                    wait
                }
                Err(why) => {
                    self.tell(&why, std::mem::replace(&mut told, true));
                    let wait = retry.mul_f64(rand::rng().random_range(1.0..1.25));
                    retry = (retry * 2).min(*RETRY.end());
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.politely_again(began) => {}
                () = self.end.cancelled() => break,
            }
        }
        if known {
            let events: &[&'static str] =
                if lacked && self.swarm.amounts().left == 0 { &["completed", "stopped"] } else { &["stopped"] };
            for event in events.iter().copied() {
                let figures = self.figures(event);
                if let Ok(Err(why)) = timeout(FAREWELL, self.ask(&figures)).await {
                    tracing::debug!(task = self.swarm.task, tracker = self.named(), why, "a tracker took no goodbye");
                }
            }
        }
    }

    async fn politely_again(&self, asked: Instant) {
        self.again.notified().await;
        tokio::time::sleep_until(asked + *INTERVAL.start()).await;
    }

    fn tell(&self, why: &str, told: bool) {
        let (task, tracker) = (&self.swarm.task, self.named());
        if told {
            tracing::debug!(task, tracker, why, "the tracker does still not help");
        } else {
            tracing::warn!(task, tracker, why, "the tracker does not help: peers that the task names and other trackers may do");
        }
    }

    fn named(&self) -> String {
        named(&self.url)
    }

    fn figures(&self, event: &'static str) -> Figures {
        Figures { event, amounts: self.swarm.amounts() }
    }

    async fn ask(&self, figures: &Figures) -> Result<Answer, String> {
        if self.url.scheme() == "udp" {
            let host = self.url.host_str().unwrap_or_default();
            let port = self.url.port().unwrap_or_default();
            let asked = timeout(PATIENCE, udp::ask(host.trim_matches(['[', ']']), port, &self.swarm, figures));
            return asked.await.unwrap_or_else(|_| Err("it does not answer".into()));
        }
        let mut url = self.url.clone();
        url.set_query(Some(&self.query(figures)));
        let mut reply = self.http.get(url).send().await.map_err(|e| unreachable(&e.without_url()))?;
        if !reply.status().is_success() {
            return Err(format!("it answers with status {}", reply.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = reply.chunk().await.map_err(|e| unreachable(&e.without_url()))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(format!("its answer is longer than {} KiB", MAX_BODY >> 10));
            }
            body.extend_from_slice(&chunk);
        }
        answer::parse(&body)
    }

    /// What the URL had stays.
    fn query(&self, figures: &Figures) -> String {
        let Swarm { hash, peer_id, port, key, .. } = &*self.swarm;
        let Figures { event, amounts: Amounts { uploaded, downloaded, left } } = figures;
        let mut query = format!(
            "info_hash={}&peer_id={}&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}&compact=1&no_peer_id=1&key={key}",
            percent_encode(hash, NON_ALPHANUMERIC),
            percent_encode(peer_id, NON_ALPHANUMERIC),
        );
        if !event.is_empty() {
            query.push_str(&format!("&event={event}"));
        }
        if let Some(own) = self.url.query().filter(|q| !q.is_empty()) {
            query.push_str(&format!("&{own}"));
        }
        query
    }
}

/// An error with what caused it, for the log.
fn unreachable(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn librqbit_sees_no_tracker_but_ours_and_few_are_asked() {
        let trackers = Trackers::start("127.0.0.1:7000".parse().unwrap()).await.unwrap();
        let info = format!("d6:lengthi5e4:name1:x12:piece lengthi16384e6:pieces20:{}e", "a".repeat(20));
        let one = |n: usize| {
            let url = format!("http://t{n:03}.example.com/announce");
            format!("l{}:{url}e", url.len())
        };
        let list: String = (0..500).map(one).collect();
        let torrent = format!("d8:announce20:http://a.example.com13:announce-listl{list}e4:info{info}e");
        let task = ["udp://t.example.com:6969", "udp://noport.example.com", "file:///etc/passwd", "nonsense"].map(str::to_owned);
        let prepared = trackers.prepare(torrent.as_bytes(), &task).unwrap();
        assert_eq!(prepared.trackers.len(), MAX_TRACKERS);
        assert!(prepared.for_engine.iter().all(|url| url.starts_with("udp://127.0.0.1:")), "{:?}", prepared.for_engine);
        assert_eq!(String::from_utf8_lossy(&prepared.torrent), format!("d4:info{info}e"));
        let plain = trackers.prepare(&prepared.torrent, &task).unwrap();
        assert_eq!(plain.trackers.iter().map(Url::as_str).collect::<Vec<_>>(), ["udp://t.example.com:6969"]);
        assert!(trackers.prepare(&prepared.torrent, &task[1..]).unwrap().for_engine.is_empty(), "nobody to ask");
    }

    #[test]
    fn keys_in_addresses_stay_out_of_the_log() {
        for (url, shown) in [
            ("https://user:secret@t.example.com/secret/announce?passkey=secret#secret", "https://t.example.com"),
            ("udp://[2001:db8::1]:6969/secret", "udp://[2001:db8::1]:6969"),
        ] {
            assert_eq!(named(&usable(url).unwrap()), shown);
        }
    }
}
