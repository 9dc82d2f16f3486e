//! Ports for nodes.
//!
//! They lie below those that the kernel gives to whoever asks for none: the port of a node that is started again is not
//! somebody's connection by then. Test binaries may run side by side: each takes whole blocks, and says so by listening on a
//! block's first port.
//!
//! Whether a port is free is found out without listening on it: a program that another test starts at that moment has what
//! is open here until it is loaded, and would listen on, too, for some milliseconds.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};
use tokio::net::TcpSocket;

const FIRST: u16 = 12_000;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 200;

/// The marks of the blocks that are ours, and the rest of the last one.
static OURS: Mutex<(Vec<TcpListener>, std::ops::Range<u16>)> = Mutex::new((Vec::new(), 0..0));

/// Ports that are free, each given once.
pub fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    std::array::from_fn(|_| {
        loop {
            let Some(port) = ours.1.next() else {
                let mark = block();
                let first = mark.local_addr().expect("address").port();
                ours.1 = first + 1..first + BLOCK;
                ours.0.push(mark);
                continue;
            };
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if is_free(at) {
                return at;
            }
        }
    })
}

/// Nobody listens there, so that we can.
pub fn is_free(at: SocketAddr) -> bool {
    let socket = TcpSocket::new_v4().expect("socket");
    // As those do who will listen: connections that have ended are in nobody's way.
    socket.set_reuseaddr(true).expect("socket");
    socket.bind(at).is_ok()
}

fn block() -> TcpListener {
    let start = (std::process::id() % u32::from(BLOCKS)) as u16;
    let mut marks = (0..BLOCKS).map(|n| FIRST + (start + n) % BLOCKS * BLOCK);
    marks.find_map(|mark| TcpListener::bind((Ipv4Addr::LOCALHOST, mark)).ok()).expect("a block of ports")
}
