//! The states of a task and of its legs, and every legal step between them.
//!
//! ```text
//! send   queues ──> uploading ──> uploaded ──seed time over──> history
//!          ^  │         │  ^         │                            │
//!          │  └──────┐  v  │retry    │seed broke                  │
//!          │         └> failed <─────┘                            │
//!          └──────────────┴── sent again ─────────────────────────┘
//!
//! recv   queues ──> downloading ──> downloaded ──seed time over──> history
//!          ^  │        │   ^            ^                             │
//!          │  │   error│   │retry       │                             │
//!          │  │        v   │            │                             │
//!          │  │     downloaderror       │                             │
//!          │  └──── everything local ───┘                             │
//!          └───────── received again (from any of them) ──────────────┘
//! ```
//!
//! A cancel leads to `history` from everywhere. A cacher's tasks have the role `recv`: its `downloading` means fetching
//! and seeding, its `downloaded` that the seed time is over and the data are gone; a day later it is `history`. A task whose windows are closed stays
//! in its state: waiting is a matter of its legs. The names are the directories that show the states to old tools
//! (protocol section 4); the database is the truth.

/// An enumeration with fixed words: protocol, database and logs use the same ones.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// For messages that say what is allowed.
            pub const ALLOWED: &'static str = concat!($($word, " "),+);
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
            pub fn parse(s: &str) -> Option<Self> {
                match s { $($word => Some($name::$variant),)+ _ => None }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words!(
    /// Which side of a delivery this node plays in a task. With the task file's name it is the task's key.
    Role { Send = "sender", Recv = "receiver" }
);

words!(
    /// What a node is (`servertype`). A sender may receive too; a cacher's tasks have the role [`Role::Recv`].
    NodeType { Sender = "sender", Receiver = "receiver", Cacher = "cacher" }
);

words!(
    /// When methods may work.
    Policy {
        /// At any time.
        Fulltime = "fulltime",
        /// Each method only inside its window.
        Priortime = "priortime",
    }
);

words!(
    /// Where a task stands; see the drawing above.
    TaskState {
        Queues = "queues",
        Uploading = "uploading",
        Uploaded = "uploaded",
        Failed = "failed",
        Downloading = "downloading",
        DownloadError = "downloaderror",
        Downloaded = "downloaded",
        History = "history",
    }
);

words!(
    /// One method's part of a task.
    LegState {
        /// May not run yet: window closed, no slot, or a retry is due later.
        Waiting = "waiting",
        Running = "running",
        Done = "done",
        Failed = "failed",
        /// The method has nothing to do in this task.
        Off = "off",
    }
);

impl NodeType {
    /// What it may be in a task.
    pub fn roles(self) -> &'static [Role] {
        match self {
            NodeType::Sender => &[Role::Send, Role::Recv],
            NodeType::Receiver | NodeType::Cacher => &[Role::Recv],
        }
    }
}

impl TaskState {
    /// The directory below `sender/` or `receiver/` that shows the state. A failed download stays where it was, with an
    /// `.err` file beside it.
    pub fn dir(self) -> &'static str {
        match self {
            TaskState::DownloadError => TaskState::Downloading.as_str(),
            other => other.as_str(),
        }
    }

    /// The only place that says which steps exist. Staying in a state is not a step.
    pub fn can_become(self, role: Role, next: TaskState) -> bool {
        use TaskState::*;
        if self == next || !self.belongs_to(role) || !next.belongs_to(role) {
            return false;
        }
        match (self, next) {
            // Cancel, or the end of the seed time.
            (_, History) => true,
            // Sent or received again; a download that is told to re-read its task goes through the queue too.
            (Uploaded | Failed | Downloading | DownloadError | Downloaded | History, Queues) => true,
            (Queues, Uploading | Failed | Downloading | DownloadError) => true,
            // Everything was found in the library.
            (Queues, Downloaded) => true,
            (Uploading, Uploaded | Failed) => true,
            // The seed noticed that its data changed.
            (Uploaded, Failed) => true,
            (Failed, Uploading) => true,
            (Downloading, Downloaded | DownloadError) => true,
            (DownloadError, Downloading) => true,
            _ => false,
        }
    }

    /// Whether the state exists for the role at all.
    pub fn belongs_to(self, role: Role) -> bool {
        use TaskState::*;
        match self {
            Queues | History => true,
            Uploading | Uploaded | Failed => role == Role::Send,
            Downloading | DownloadError | Downloaded => role == Role::Recv,
        }
    }

    /// Work is going on or may go on without a new request.
    pub fn is_active(self) -> bool {
        matches!(self, TaskState::Queues | TaskState::Uploading | TaskState::Uploaded | TaskState::Downloading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskState::*;

    #[test]
    fn the_table_of_steps() {
        let legal: &[(Role, TaskState, &[TaskState])] = &[
            (Role::Send, Queues, &[Uploading, Failed, History]),
            (Role::Send, Uploading, &[Uploaded, Failed, History]),
            (Role::Send, Uploaded, &[Queues, Failed, History]),
            (Role::Send, Failed, &[Queues, Uploading, History]),
            (Role::Send, History, &[Queues]),
            (Role::Recv, Queues, &[Downloading, DownloadError, Downloaded, History]),
            (Role::Recv, Downloading, &[Queues, DownloadError, Downloaded, History]),
            (Role::Recv, DownloadError, &[Queues, Downloading, History]),
            (Role::Recv, Downloaded, &[Queues, History]),
            (Role::Recv, History, &[Queues]),
        ];
        for &role in Role::ALL {
            for &from in TaskState::ALL {
                let want = legal.iter().find(|(r, f, _)| *r == role && *f == from).map_or(&[][..], |(_, _, to)| to);
                for &to in TaskState::ALL {
                    assert_eq!(from.can_become(role, to), want.contains(&to), "{role}: {from} -> {to}");
                }
            }
        }
    }

    #[test]
    fn words_read_back() {
        for &s in TaskState::ALL {
            assert_eq!(TaskState::parse(s.as_str()), Some(s));
        }
        for &s in LegState::ALL {
            assert_eq!(LegState::parse(s.as_str()), Some(s));
        }
        assert_eq!(Role::Recv.as_str(), "receiver");
        assert_eq!(NodeType::parse("cacher"), Some(NodeType::Cacher));
        assert_eq!(Policy::parse("Fulltime"), None);
        assert_eq!(DownloadError.dir(), "downloading");
        assert_eq!(Policy::ALLOWED.trim(), "fulltime priortime");
    }
}
