//! When a method that is done with its part helps another one that does not answer, or is so slow that the package would
//! wait for it.
//!
//! The ratio is what the sender wishes, and the film is to play tonight: as long as every method brings what it was given,
//! nothing moves. A method outside its window is not slow, and gets no help; but what it took over from another one goes
//! back, when that one may fetch.
//!
//! Who gave its part away because it did not work is no help for one that is merely slow: else two that are both slow
//! would give each other the same bytes for ever.

use super::span::{Method, Span};
use std::ops::Range;
use std::time::Duration;

/// A rate is judged when it was seen for so long: a seed that starts again is no dead seed.
pub const SEEN: Duration = Duration::from_secs(60);
/// What is brought in this time needs no help.
const SOON_SECONDS: u64 = 600;
/// Less than this per second is nothing.
const NOTHING: u64 = 1024;
/// Spans are cut at multiples of this.
pub const GRAIN: u64 = 1 << 20;

/// How a method stands in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It has brought all that it was given, and may fetch now.
    Done,
    /// The same; but it gave its part away and has brought nothing since. It helps those who bring nothing at all.
    Spare,
    /// The same, moments ago, or it failed. It only takes back its own from one that may not fetch.
    Tired,
    /// It works, and its rate is known.
    Works,
    /// One try failed, and the next one is minutes away.
    Stumbled,
    /// Several tries in a row failed, and the next one is still to come, not in a moment.
    Away,
    /// Something is left, and its window is closed.
    Closed,
    /// Neither helps nor is helped.
    Apart,
}

impl Stand {
    /// It could take something over.
    pub fn is_free(self) -> bool {
        matches!(self, Self::Done | Self::Spare | Self::Tired)
    }
}

/// One method's part of a reception.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub method: Method,
    pub stand: Stand,
    /// Bytes that it has not brought yet.
    pub left: u64,
    /// Bytes per second: of one that works, lately; of one that is done, when it worked last.
    pub rate: u64,
    /// Bytes that it can bring before its window closes, as far as that is known.
    pub most: u64,
}

/// `from` gives this many of its bytes to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Help {
    pub from: Method,
    pub to: Method,
    pub bytes: u64,
}

/// Who helps whom. `able`: of the bytes that the first method lacks, how many the second could bring.
pub fn help(parts: &[Part], able: impl Fn(Method, Method) -> u64) -> Option<Help> {
    let bytes = |from: &Part, to: &Part| match (from.stand, to.stand) {
        (Stand::Closed, helper) if helper.is_free() => from.left,
        (Stand::Away, Stand::Done | Stand::Spare) => from.left,
        (Stand::Works, _) if from.left / SOON_SECONDS <= from.rate => 0,
        (Stand::Works, Stand::Done | Stand::Spare) if from.rate < NOTHING => from.left,
        // As long as it takes to bring one half here, the other one is brought there.
        (Stand::Works, Stand::Done) if to.rate > from.rate * 2 => from.left / 2,
        // It may be well in a moment; the other one need not be idle until then.
        (Stand::Stumbled, Stand::Done) => from.left / 2,
        _ => 0,
    };
    let most = |to: &Part| if to.most < GRAIN { 0 } else { to.most };
    let pairs = parts.iter().flat_map(|from| parts.iter().map(move |to| (from, to)));
    pairs
        .map(|(from, to)| (from, to, bytes(from, to).min(most(to))))
        .filter(|(_, _, bytes)| *bytes > 0)
        .map(|(from, to, bytes)| Help { from: from.method, to: to.method, bytes: bytes.min(able(from.method, to.method)) })
        .filter(|h| h.bytes > 0)
        .max_by_key(|h| (h.bytes, h.to))
}

/// Which of `from`'s spans are given away, the last ones first, with what is missing of each: the span, and the offset
/// from which on it is given. `cut`: a span may be divided.
pub fn from_the_end(spans: &[(Span, Vec<Range<u64>>)], bytes: u64, cut: bool) -> Vec<(Span, u64)> {
    let mut got = 0;
    let mut out = Vec::new();
    for (span, missing) in spans.iter().rev().filter(|(_, missing)| !missing.is_empty()) {
        if got >= bytes {
            break;
        }
        let mut at = span.end();
        for r in missing.iter().rev() {
            if got >= bytes {
                break;
            }
            let take = (r.end - r.start).min(bytes - got);
            at = r.end - take;
            got += take;
        }
        let at = at / GRAIN * GRAIN;
        let stays: u64 = missing.iter().map(|r| r.end.min(at).saturating_sub(r.start)).sum();
        let at = if cut && stays >= GRAIN { at.max(span.offset) } else { span.offset };
        out.push((*span, at));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use Method::*;
    use Stand::*;

    const MIB: u64 = 1 << 20;

    fn part(method: Method, stand: Stand, left: u64, rate: u64) -> Part {
        Part { method, stand, left, rate, most: u64::MAX }
    }

    #[test]
    fn who_helps_whom() {
        let gib = 1024 * MIB;
        let some = |from, to, bytes| Some(Help { from, to, bytes });
        let table = [
            ("nobody is done", vec![part(Bt, Works, gib, MIB), part(Cdn, Works, gib, MIB)], None),
            ("it comes in time", vec![part(Bt, Works, 60 * MIB, MIB), part(Cdn, Done, 0, 100 * MIB)], None),
            ("half of it", vec![part(Bt, Works, gib, MIB), part(Cdn, Done, 0, 3 * MIB)], some(Bt, Cdn, gib / 2)),
            ("the other one is no faster", vec![part(Bt, Works, gib, MIB), part(Cdn, Done, 0, 2 * MIB)], None),
            ("next to nothing comes", vec![part(Bt, Works, gib, 1023), part(Cdn, Done, 0, 0)], some(Bt, Cdn, gib)),
            ("it does not answer", vec![part(Obs, Away, gib, 0), part(Cdn, Done, 0, 0)], some(Obs, Cdn, gib)),
            ("both are away", vec![part(Obs, Away, gib, 0), part(Cdn, Away, gib, 0)], None),
            ("its window is closed", vec![part(Obs, Apart, gib, 0), part(Cdn, Done, 0, 0)], None),
            ("the other window is closed", vec![part(Obs, Away, gib, 0), part(Cdn, Apart, 0, 0)], None),
            ("it stumbled", vec![part(Obs, Stumbled, gib, 0), part(Cdn, Done, 0, 0)], some(Obs, Cdn, gib / 2)),
            ("one that did not work is no help", vec![part(Cdn, Works, gib, 10_000), part(Obs, Spare, 0, 9 * MIB)], None),
            ("better than nothing", vec![part(Cdn, Works, gib, 0), part(Obs, Spare, 0, 9 * MIB)], some(Cdn, Obs, MIB)),
            ("better than nobody", vec![part(Cdn, Away, gib, 0), part(Obs, Spare, 0, 0)], some(Cdn, Obs, MIB)),
            ("but not at once", vec![part(Cdn, Away, gib, 0), part(Obs, Tired, 0, 0)], None),
            ("a tired one is no help", vec![part(Bt, Works, gib, 0), part(Cdn, Tired, 0, 9 * MIB)], None),
            ("who may not fetch gives back", vec![part(Cdn, Closed, gib, 0), part(Obs, Tired, 0, 0)], some(Cdn, Obs, MIB)),
            ("to one that may", vec![part(Cdn, Closed, gib, 0), part(Obs, Closed, 0, 0)], None),
            (
                "its window closes soon",
                vec![part(Bt, Away, gib, 0), Part { most: 7 * MIB, ..part(Cdn, Done, 0, 0) }],
                some(Bt, Cdn, 7 * MIB),
            ),
            ("its window closes now", vec![part(Bt, Away, gib, 0), Part { most: MIB - 1, ..part(Cdn, Done, 0, 0) }], None),
            ("nobody else has it", vec![part(Cdn, Away, gib, 0), part(Bt, Done, 0, MIB)], None),
            ("a piece of it", vec![part(Cdn, Away, gib, 0), part(Obs, Done, 0, MIB)], some(Cdn, Obs, MIB)),
            (
                "who lacks more",
                vec![part(Bt, Away, 2 * gib, 0), part(Obs, Away, gib, 0), part(Cdn, Done, 0, 0)],
                some(Bt, Cdn, 2 * gib),
            ),
        ];
        for (name, parts, want) in table {
            let able = |_, to| match to {
                Cdn => u64::MAX,
                Obs => MIB,
                Bt => 0,
            };
            assert_eq!(help(&parts, able), want, "{name}");
        }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one missing range is what is meant")]
    fn the_end_is_given_away() {
        let span = |file, from: u64, to: u64| Span { file, offset: from * MIB, len: (to - from) * MIB };
        let all = |s: Span| (s, vec![s.range()]);
        let three = [all(span(0, 0, 10)), all(span(1, 0, 10)), (span(2, 0, 10), vec![])];
        assert_eq!(from_the_end(&three, 4 * MIB, true), [(span(1, 0, 10), 6 * MIB)]);
        assert_eq!(from_the_end(&three, 4 * MIB, false), [(span(1, 0, 10), 0)]);
        assert_eq!(from_the_end(&three, 12 * MIB, true), [(span(1, 0, 10), 0), (span(0, 0, 10), 8 * MIB)]);
        assert_eq!(from_the_end(&three, 99 * MIB, true), [(span(1, 0, 10), 0), (span(0, 0, 10), 0)]);
        // Where the middle is in place already, it does not count.
        let holes = [(span(0, 2, 10), vec![2 * MIB..4 * MIB, 9 * MIB..10 * MIB])];
        assert_eq!(from_the_end(&holes, MIB, true), [(span(0, 2, 10), 9 * MIB)]);
        assert_eq!(from_the_end(&holes, 2 * MIB, true), [(span(0, 2, 10), 3 * MIB)]);
        // Next to nothing stays behind: all of it goes.
        assert_eq!(from_the_end(&[all(span(0, 0, 4))], 4 * MIB - 5, true), [(span(0, 0, 4), 0)]);
        assert_eq!(from_the_end(&[], MIB, true), []);
    }
}
