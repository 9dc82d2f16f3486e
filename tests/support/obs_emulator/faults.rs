//! What goes wrong, and when: armed by a test, used up by requests.

use std::sync::Mutex;
use std::time::Duration;

/// The requests that tests tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Put,
    Get,
    Head,
    Delete,
    List,
    Initiate,
    PutPart,
    ListParts,
    ListUploads,
    Complete,
    Abort,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObsFault {
    /// A proxy's 502 page; nothing is done.
    BadGateway,
    /// 429 with `Retry-After: 1`.
    TooMany,
    /// The connection breaks before anything is done.
    Drop,
    /// The request is carried out, then the connection breaks without an answer.
    LostReply,
    /// 403: the key has no right to do this.
    Denied,
    /// The answer is late.
    Slow(Duration),
    /// The answer's body breaks off after so many bytes.
    Cut(u64),
    /// One byte of the answer's body is another one.
    FlipByte,
    /// The whole object with status 200, whatever range was asked for.
    IgnoreRange,
}

/// The faults to come.
#[derive(Default)]
pub struct Faults(Mutex<Vec<(Op, usize, usize, ObsFault)>>);

impl Faults {
    /// The next `times` requests of this kind meet the fault.
    pub fn next(&self, op: Op, times: usize, fault: ObsFault) {
        self.after(op, 0, times, fault);
    }

    /// As [`Faults::next`], once `skip` requests of this kind have passed unharmed.
    pub fn after(&self, op: Op, skip: usize, times: usize, fault: ObsFault) {
        self.0.lock().unwrap().push((op, skip, times, fault));
    }

    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    pub(super) fn take(&self, op: Op) -> Option<ObsFault> {
        let mut faults = self.0.lock().unwrap();
        let (_, skip, times, fault) = faults.iter_mut().find(|f| f.0 == op && f.2 > 0)?;
        if *skip > 0 {
            *skip -= 1;
            return None;
        }
        *times -= 1;
        Some(*fault)
    }
}
