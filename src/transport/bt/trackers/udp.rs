//! Asking a UDP tracker (BEP 15).

use super::answer::{Answer, compact_v4, compact_v6, in_words};
use super::{Amounts, Figures, LOOKUP, Swarm, unreachable};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// What everybody calls an unconnected client.
pub(super) const MAGIC: [u8; 8] = 0x0417_2710_1980_u64.to_be_bytes();
pub(super) const CONNECT: [u8; 4] = [0, 0, 0, 0];
pub(super) const ANNOUNCE: [u8; 4] = [0, 0, 0, 1];
const ERROR: [u8; 4] = [0, 0, 0, 3];
/// A datagram is sent so often, and waited for so long.
const TRIES: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(6), Duration::from_secs(12)];

/// Asks at the tracker's first address of each kind, as it knows members by the kind that they ask with.
pub(super) async fn ask(host: &str, port: u16, swarm: &Swarm, figures: &Figures) -> Result<Answer, String> {
    let found = timeout(LOOKUP, tokio::net::lookup_host((host, port))).await.map_err(|_| "its name cannot be resolved")?;
    let found: Vec<SocketAddr> = found.map_err(|e| format!("its name cannot be resolved: {e}"))?.collect();
    let first = |v6: bool| found.iter().copied().find(|a| a.is_ipv6() == v6).filter(|_| !v6 || !swarm.ipv4_only);
    let each = [first(false), first(true)].into_iter().flatten().map(|at| ask_at(at, swarm, figures));
    let mut answers = futures::future::join_all(each).await.into_iter();
    let one = answers.next().ok_or("it has no address that can be used")?;
    match (one, answers.next()) {
        (Ok(mut one), Some(Ok(other))) => {
            one.peers.extend(other.peers);
            Ok(one)
        }
        (Err(_), Some(other)) => other,
        (one, _) => one,
    }
}

async fn ask_at(at: SocketAddr, swarm: &Swarm, figures: &Figures) -> Result<Answer, String> {
    let any: SocketAddr = if at.is_ipv6() { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await.map_err(|e| unreachable(&e))?;
    socket.connect(at).await.map_err(|e| unreachable(&e))?;
    let connected = exchange(&socket, &MAGIC, CONNECT, &[]).await?;
    let connection = connected.first_chunk::<8>().ok_or("its answer is too short")?;
    let event: u32 = match figures.event {
        "completed" => 1,
        "started" => 2,
        "stopped" => 3,
        _ => 0,
    };
    let mut request = Vec::with_capacity(82);
    request.extend(swarm.hash);
    request.extend(swarm.peer_id);
    let Amounts { uploaded, downloaded, left } = figures.amounts;
    for n in [downloaded, left, uploaded] {
        request.extend(n.to_be_bytes());
    }
    request.extend(event.to_be_bytes());
    request.extend([0; 4]); // our address: the datagram's
    request.extend(swarm.key.to_be_bytes());
    request.extend((-1_i32).to_be_bytes()); // as many peers as it likes
    request.extend(swarm.port.to_be_bytes());
    let said = exchange(&socket, connection, ANNOUNCE, &request).await?;
    let (seconds, rest) = said.split_first_chunk::<4>().ok_or("its answer is too short")?;
    let (seconds, peers) = (u32::from_be_bytes(*seconds).into(), rest.get(8..).ok_or("its answer is too short")?);
    Ok(if at.is_ipv6() { Answer::new(seconds, compact_v6(peers)) } else { Answer::new(seconds, compact_v4(peers)) })
}

/// Sends a request until its answer comes: what follows the answer's head.
async fn exchange(socket: &UdpSocket, connection: &[u8; 8], action: [u8; 4], body: &[u8]) -> Result<Vec<u8>, String> {
    let transaction = rand::random::<u32>().to_be_bytes();
    let request = [connection.as_slice(), &action, &transaction, body].concat();
    let mut buf = [0; 4096];
    for patience in TRIES {
        socket.send(&request).await.map_err(|e| unreachable(&e))?;
        let answer = async {
            loop {
                let len = socket.recv(&mut buf).await.map_err(|e| unreachable(&e))?;
                let said = buf.get(..len).unwrap_or_default();
                match (said.get(..4), said.get(4..8), said.get(8..)) {
                    (Some(a), Some(t), Some(rest)) if t == transaction && a == action => return Ok(rest.to_vec()),
                    (Some(a), Some(t), Some(rest)) if t == transaction && a == ERROR => {
                        return Err(format!("it refuses: {}", in_words(rest)));
                    }
                    _ => {}
                }
            }
        };
        if let Ok(said) = timeout(patience, answer).await {
            return said;
        }
    }
    Err("it does not answer".into())
}
