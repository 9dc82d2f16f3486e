//! What an HTTP tracker answers (BEP 3, 7, 23), read without trust.

use crate::model::bencode::{Cursor, Why};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Longer answers are not read. 200 peers in their longest form have a tenth of this.
pub(super) const MAX_BODY: usize = 256 << 10;
/// Peers that are taken from one answer.
pub(super) const MAX_PEERS: usize = 200;
/// A tracker is asked again after a time between these, whatever it wishes.
pub(super) const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_secs(15)..=Duration::from_secs(3600);
/// ... and after this when it says nothing.
const UNSAID: u64 = 300;
/// Characters of a reason for the log.
const MAX_REASON: usize = 200;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// When to ask again.
    pub wait: Duration,
    pub peers: Vec<SocketAddr>,
}

impl Answer {
    pub fn new(seconds: u64, peers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let wait = Duration::from_secs(seconds).clamp(*INTERVAL.start(), *INTERVAL.end());
        Self { wait, peers: peers.into_iter().filter(is_dialable).take(MAX_PEERS).collect() }
    }
}

fn is_dialable(peer: &SocketAddr) -> bool {
    let ip = peer.ip();
    peer.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// `Err` is a sentence for people.
pub(super) fn parse(body: &[u8]) -> Result<Answer, String> {
    read(body).map_err(|why| format!("its answer makes no sense: {why}"))?
}

fn read(body: &[u8]) -> Result<Result<Answer, String>, Why> {
    let (mut refusal, mut interval, mut min_interval) = (None, None, None);
    let mut peers = Vec::new();
    let mut is_answer = false;
    Cursor::new(body).dict(|key, c| {
        let value = c.skip()?;
        match key {
            b"failure reason" => refusal = Some(in_words(Cursor::new(value).bytes()?)),
            b"interval" => interval = Cursor::new(value).uint().ok(),
            b"min interval" => min_interval = Cursor::new(value).uint().ok(),
            b"peers" if value.starts_with(b"l") => listed(value, &mut peers)?,
            b"peers" => peers.extend(compact_v4(Cursor::new(value).bytes()?)),
            b"peers6" => peers.extend(compact_v6(Cursor::new(value).bytes()?)),
            _ => return Ok(()),
        }
        is_answer = true;
        Ok(())
    })?;
    if let Some(reason) = refusal {
        return Ok(Err(format!("it refuses: {reason}")));
    }
    if !is_answer {
        return Err("it names neither peers nor a time");
    }
    Ok(Ok(Answer::new(min_interval.or(interval).unwrap_or(UNSAID), peers)))
}

fn listed(value: &[u8], peers: &mut Vec<SocketAddr>) -> Result<(), Why> {
    Cursor::new(value).list(|c| {
        let (mut ip, mut port) = (None, None);
        c.dict(|key, c| {
            let value = c.skip()?;
            match key {
                b"ip" => ip = Cursor::new(value).text().ok().and_then(|t| t.parse::<IpAddr>().ok()),
                b"port" => port = Cursor::new(value).uint().ok().and_then(|p| u16::try_from(p).ok()),
                _ => {}
            }
            Ok(())
        })?;
        peers.extend(ip.zip(port).map(SocketAddr::from));
        Ok(())
    })
}

/// What is left over at the end is no peer.
pub(super) fn compact_v4(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> {
    let one = |[a, b, c, d, p, q]: &[u8; 6]| SocketAddr::from((Ipv4Addr::new(*a, *b, *c, *d), u16::from_be_bytes([*p, *q])));
    bytes.as_chunks::<6>().0.iter().map(one)
}

pub(super) fn compact_v6(bytes: &[u8]) -> impl Iterator<Item = SocketAddr> {
    let one = |peer: &[u8; 18]| {
        let (ip, port) = peer.split_first_chunk::<16>()?;
        Some(SocketAddr::from((Ipv6Addr::from(*ip), u16::from_be_bytes(*port.first_chunk()?))))
    };
    bytes.as_chunks::<18>().0.iter().filter_map(one)
}

/// A tracker's text, fit for a log.
pub(super) fn in_words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> (u64, Vec<String>) {
        let answer = parse(body.as_bytes()).unwrap();
        (answer.wait.as_secs(), answer.peers.iter().map(SocketAddr::to_string).collect())
    }

    #[test]
    fn every_form_of_an_answer_is_read() {
        for (body, wait, peers) in [
            ("d8:intervali1800e5:peers0:e", 1800, vec![]),
            (
                "d8:intervali1800e12:min intervali60e5:peers12:abcdefghijkle",
                60,
                vec!["97.98.99.100:25958", "103.104.105.106:27500"],
            ),
            (
                "d8:intervali60e5:peersld2:ip9:127.0.0.17:peer id1:x4:porti7001eed2:ip3:::14:porti9eeee",
                60,
                vec!["127.0.0.1:7001", "[::1]:9"],
            ),
            ("d8:intervali60e6:peers618:abcdefghijklmnopqre", 60, vec!["[6162:6364:6566:6768:696a:6b6c:6d6e:6f70]:29042"]),
            // No names, no ports that are none, no rests.
            ("d5:peersld2:ip4:host4:porti1eed2:ip9:127.0.0.14:porti70000eed4:porti1eeee", 300, vec![]),
            ("d8:intervali60e5:peers8:abcdef12e", 60, vec!["97.98.99.100:25958"]),
            ("d5:peers12:\0\0\0\0ef\x01\0\0\x01\0\0e", 300, vec![]),
            // What it wishes has limits.
            ("d8:intervali0e5:peers0:e", 15, vec![]),
            ("d8:intervali1e12:min intervali0ee", 15, vec![]),
            ("d8:intervali-5e5:peers0:e", 300, vec![]),
            ("d8:intervali1000000000000000000e5:peers0:e", 3600, vec![]),
            ("d8:intervali60e5:peers0:eand more", 60, vec![]),
        ] {
            assert_eq!(said(body), (wait, peers.into_iter().map(str::to_owned).collect()), "{body:?}");
        }
    }

    #[test]
    fn nonsense_is_an_error_in_words() {
        let deep = format!("d1:a{}", "l".repeat(200_000));
        let large = "d8:intervali99999999999999999999999e5:peers0:e";
        for body in ["", "<html>", "l", "de", "i5e", "d5:peersi1ee", "d5:peers999999999:abc", "d5:peersli1eee", large, &deep] {
            let why = parse(body.as_bytes()).unwrap_err();
            assert!(why.starts_with("its answer makes no sense: ") && why.len() < 200, "{why}");
        }
        assert_eq!(parse(b"d14:failure reason8:go\naway!e"), Err("it refuses: go away!".into()));
        let long = format!("d14:failure reason5000:{}e", "x".repeat(5000));
        assert!(parse(long.as_bytes()).unwrap_err().len() < 300);
    }

    #[test]
    fn a_large_list_is_cut() {
        let listed = "d2:ip9:127.0.0.14:porti1ee".repeat(5_000);
        assert_eq!(said(&format!("d5:peersl{listed}ee")).1.len(), MAX_PEERS);
        assert_eq!(said(&format!("d5:peers60000:{}e", "abcdef".repeat(10_000))).1.len(), MAX_PEERS);
    }
}
