//! The ratio of the methods, and which bytes go to which method (protocol section 8).
//!
//! Whole files: walk the files in order and keep the sum of the bytes before each; a file goes to the first method whose
//! cumulative quota exceeds that sum. So every method gets a run of the order, bt the first one, and each misses its share by
//! less than one file. A packing algorithm would come nearer to the ratio, but would scatter bt over the torrent: its
//! pieces straddle files, and every straddle fetches foreign bytes.
//!
//! Split files (`splitfiles`): the same runs, but a cut may fall inside a file, on a piece border of the full torrent, so
//! each method misses its share by less than one piece and the pieces of the bt part are those of the full torrent.
//!
//! After the receiver's dedupe, [`second_allocation`] restores the ratio as far as that is possible.

use super::ids::RelPath;
use super::span::{Method, Span};
use std::fmt;

/// Larger shares are a mistake.
const MAX_SHARE: u32 = 1_000_000;

/// What is allowed, for messages.
pub const ALLOWED: &str = "bt:obs:cdn as three whole numbers, at least one of them above 0, e.g. 1:1:1";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad ratio {value:?}; allowed: {ALLOWED}")]
pub struct RatioError {
    pub value: String,
}

/// Shares of bt, obs and cdn; at least one is above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ratio([u32; 3]);

impl Ratio {
    pub fn new(bt: u32, obs: u32, cdn: u32) -> Result<Self, RatioError> {
        let shares = [bt, obs, cdn];
        if shares.iter().all(|&s| s == 0) || shares.iter().any(|&s| s > MAX_SHARE) {
            return Err(RatioError { value: format!("{bt}:{obs}:{cdn}") });
        }
        Ok(Self(shares))
    }

    pub fn parse(text: &str) -> Result<Self, RatioError> {
        let bad = || RatioError { value: text.chars().take(40).collect() };
        let number = |s: &str| {
            let s = s.trim();
            (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u32>().ok()).flatten()
        };
        let shares: Vec<u32> = text.splitn(4, ':').map(number).collect::<Option<_>>().ok_or_else(bad)?;
        match shares[..] {
            [bt, obs, cdn] => Self::new(bt, obs, cdn).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }

    pub fn share(self, method: Method) -> u32 {
        self.0[method as usize]
    }

    /// The full torrent is in use: `n:0:0`.
    pub fn is_bt_only(self) -> bool {
        self.0[1] == 0 && self.0[2] == 0
    }

    fn sum(self) -> u128 {
        self.0.iter().map(|&s| u128::from(s)).sum()
    }

    /// `total` × the shares up to and including the method, in units of 1/sum of a byte.
    fn cumulative(self, method: Method, total: u64) -> u128 {
        let shares: u128 = self.0[..=method as usize].iter().map(|&s| u128::from(s)).sum();
        u128::from(total) * shares
    }

    /// The last method that has a share: what lies beyond every quota (empty files at the end) goes there.
    fn last_method(self) -> Method {
        Method::ALL.into_iter().rev().find(|&m| self.share(m) > 0).unwrap_or(Method::Cdn)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0[0], self.0[1], self.0[2])
    }
}

/// In which order files are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As given: the order of the files in the torrent (`ctfilesorder`).
    Torrent,
    /// Largest first; equal sizes as given.
    SizeDescending,
}

impl Order {
    fn walk(self, files: &[(&RelPath, u64)]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..files.len()).collect();
        if self == Order::SizeDescending {
            order.sort_by_key(|&i| std::cmp::Reverse(files[i].1));
        }
        order
    }
}

fn total_of(files: &[(&RelPath, u64)]) -> u64 {
    files.iter().fold(0, |sum: u64, f| sum.saturating_add(f.1))
}

/// A method for every file, by index.
pub fn allocate(files: &[(&RelPath, u64)], ratio: Ratio, order: Order) -> Vec<Method> {
    let total = total_of(files);
    let mut out = vec![ratio.last_method(); files.len()];
    let mut before: u64 = 0;
    for i in order.walk(files) {
        let at = u128::from(before) * ratio.sum();
        if let Some(m) = Method::ALL.into_iter().find(|&m| ratio.cumulative(m, total) > at) {
            out[i] = m;
        }
        before = before.saturating_add(files[i].1);
    }
    out
}

/// `btlist`, `obslist` and `cdnlist` with their sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// By method, in the order of the walk.
    pub paths: [Vec<RelPath>; 3],
    /// Bytes by method.
    pub sizes: [u64; 3],
}

/// [`allocate`] as the task file's lists.
pub fn allocate_lists(files: &[(&RelPath, u64)], ratio: Ratio, order: Order) -> Lists {
    let methods = allocate(files, ratio, order);
    let mut lists = Lists::default();
    for i in order.walk(files) {
        let m = methods[i] as usize;
        lists.paths[m].push(files[i].0.clone());
        lists.sizes[m] = lists.sizes[m].saturating_add(files[i].1);
    }
    lists
}

/// Spans for every file, in the order of the files, which is the order of the full torrent; `piece_length` is the full
/// torrent's. A cut moves to the end of a file when it is less than a piece away.
pub fn allocate_split(files: &[(&RelPath, u64)], ratio: Ratio, piece_length: u64) -> Vec<(Span, Method)> {
    let piece = piece_length.max(1);
    let total = total_of(files);
    let cuts = [Method::Bt, Method::Obs].map(|m| (ratio.cumulative(m, total) / ratio.sum()) as u64);
    let mut out = Vec::with_capacity(files.len() + 2);
    let mut cut_at = [total; 2];
    let mut start: u64 = 0;
    for &(_, size) in files {
        let end = start.saturating_add(size);
        for (cut, at) in cuts.into_iter().zip(&mut cut_at) {
            // The first file that reaches the cut decides.
            if (start < cut || start == 0) && cut <= end && *at == total {
                *at = snap(cut, start, end, piece);
            }
        }
        start = end;
    }
    let method_at = |pos: u64| {
        if pos >= total {
            ratio.last_method()
        } else if pos < cut_at[0] {
            Method::Bt
        } else if pos < cut_at[1] {
            Method::Obs
        } else {
            Method::Cdn
        }
    };
    start = 0;
    for (file, &(_, size)) in (0u32..).zip(files) {
        let end = start.saturating_add(size);
        let mut from = start;
        for cut in cut_at {
            if from < cut && cut < end {
                out.push((Span { file, offset: from - start, len: cut - from }, method_at(from)));
                from = cut;
            }
        }
        out.push((Span { file, offset: from - start, len: end - from }, method_at(from)));
        start = end;
    }
    out
}

/// Where a cut that falls into the file `start..end` is really made.
fn snap(cut: u64, start: u64, end: u64, piece: u64) -> u64 {
    let (head, tail) = (cut - start, end - cut);
    if head < piece || tail < piece {
        return if head < tail { start } else { end };
    }
    let below = cut / piece * piece;
    if cut - below <= piece / 2 { below } else { below.saturating_add(piece).min(end) }
}

/// Bytes by method.
pub fn sizes_by_method(spans: &[(Span, Method)]) -> [u64; 3] {
    let mut sizes = [0u64; 3];
    for (span, m) in spans {
        sizes[*m as usize] = sizes[*m as usize].saturating_add(span.len);
    }
    sizes
}

/// The receiver's allocation after dedupe: what is left of the sender's spans, with the method of each.
///
/// `is_local` says by file index what the library already holds. A span keeps its method, with one exception: a method
/// that dedupe left above its share by more than a span gives the span to cdn while cdn is below its share. Never into bt
/// (only its files are in the torrent) nor into obs (the sender uploads only that list); the origin of the CDN has every
/// file. Nothing moves when the task has no CDN (`has_cdn`) or gives it no share.
pub fn second_allocation(
    spans: &[(Span, Method)],
    is_local: impl Fn(u32) -> bool,
    ratio: Ratio,
    has_cdn: bool,
) -> Vec<(Span, Method)> {
    let mut left: Vec<(Span, Method)> = spans.iter().filter(|(s, _)| !is_local(s.file)).copied().collect();
    if !has_cdn || ratio.share(Method::Cdn) == 0 {
        return left;
    }
    let mut sizes = sizes_by_method(&left);
    let total = sizes.iter().fold(0u64, |a, b| a.saturating_add(*b));
    // In units of 1/sum of a byte, to compare without rounding.
    let have = |bytes: u64| u128::from(bytes) * ratio.sum();
    let share = |m: Method| u128::from(total) * u128::from(ratio.share(m));
    // From the end, so that what remains of a method is a run; obs first: it is the dearest.
    for from in [Method::Obs, Method::Bt] {
        for (span, method) in left.iter_mut().rev().filter(|(s, m)| *m == from && s.len > 0) {
            let stays_above = have(sizes[from as usize].saturating_sub(span.len)) >= share(from);
            if !stays_above || have(sizes[Method::Cdn as usize]) >= share(Method::Cdn) {
                continue;
            }
            *method = Method::Cdn;
            sizes[from as usize] -= span.len;
            sizes[Method::Cdn as usize] += span.len;
        }
    }
    left
}
