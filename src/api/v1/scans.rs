//! Hashing the library on request: a scan finds what is new or has changed, a queue is worked off in the background.

use poem::http::StatusCode;
use poem::web::Data;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{ApiResponse, Enum, Object, OpenApi};

use super::super::Tag;
use super::super::calls::Calls;
use super::super::refusal::refusal;
use super::problem::{Failed, Problem};
use crate::desk::scan::{Imported, NotScanned, Scanned, Waiting};

/// What is to be scanned.
#[derive(Clone, Debug, PartialEq, Object)]
// A misspelt `path` would be the whole library.
#[oai(example, skip_serializing_if_is_none, deny_unknown_fields)]
pub struct LibraryScanRequest {
    /// A directory or a file of the library, absolute. The whole library, when absent or empty.
    pub path: Option<String>,
    /// Hash everything there again, not only what is new or has changed.
    #[oai(default)]
    pub anew: bool,
}

impl Example for LibraryScanRequest {
    fn example() -> Self {
        Self { path: Some("/data/dcp/cfec-001/dcps/film".into()), anew: false }
    }
}

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct LibraryScan {
    /// Files that wait to be hashed.
    pub queued: u64,
    /// Files that are as they were when they were hashed.
    pub known: u64,
    /// Files of the hash table that were forgotten: they are gone.
    pub gone: u64,
    /// Names that are not UTF-8, and files and directories that cannot be read: an event names the first.
    pub skipped: u64,
}

impl Example for LibraryScan {
    fn example() -> Self {
        Self { queued: 6, known: 0, gone: 0, skipped: 0 }
    }
}

impl From<Scanned> for LibraryScan {
    fn from(s: Scanned) -> Self {
        Self { queued: s.queued, known: s.known, gone: s.gone, skipped: s.skipped }
    }
}

/// Files that wait to be hashed.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct LibraryQueue {
    /// How many.
    pub files: u64,
    /// Their bytes that are not hashed yet. Files that an edit of the hash table names do not count: it does not tell
    /// their sizes.
    pub bytes: u64,
    /// A scan is running, or changes were seen that nobody has looked at yet: there may be more.
    pub scanning: bool,
    /// What the hashing does.
    pub state: HashingState,
    /// One of the files that are read now.
    pub file: String,
    /// Bytes per second now; 0 while nothing is read.
    pub rate: u64,
    /// Minutes that are left at this rate; -1: it is not known.
    pub eta_minutes: i64,
}

/// What the hashing of the library does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum HashingState {
    /// Nothing is due.
    Idle,
    /// It reads.
    Hashing,
    /// It reads slowly: a delivery or a gentask moves bytes.
    GivingWay,
}

impl Example for LibraryQueue {
    fn example() -> Self {
        Self {
            files: 6,
            bytes: 668_521_472,
            scanning: false,
            state: HashingState::Hashing,
            file: "/data/dcp/cfec-001/dcps/film/picture.mxf".into(),
            rate: 220_200_960,
            eta_minutes: 1,
        }
    }
}

impl From<Waiting> for LibraryQueue {
    fn from(w: Waiting) -> Self {
        let eta_minutes = match (w.left.files, w.left.bytes.checked_div(w.rate)) {
            (0, _) => 0,
            (_, Some(seconds)) => i64::try_from(seconds / 60 + 1).unwrap_or(i64::MAX),
            (_, None) => -1,
        };
        let state = match w.state.as_str() {
            "hashing" => HashingState::Hashing,
            "giving way" => HashingState::GivingWay,
            _ => HashingState::Idle,
        };
        let (files, bytes) = (w.left.files, w.left.bytes);
        Self { files, bytes, scanning: w.scanning, state, file: w.file, rate: w.rate, eta_minutes }
    }
}

/// Lines of `sha1sum` from elsewhere.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example, deny_unknown_fields)]
pub struct LibraryImportRequest {
    /// Each one 40 hex digits, two blanks, an absolute path.
    pub lines: Vec<String>,
}

impl Example for LibraryImportRequest {
    fn example() -> Self {
        Self { lines: vec!["af11b565fc46fb87fa068c7ab89cb8eec3fdd4a9  /data/dcp/cfec-001/dcps/film/ASSETMAP.xml".into()] }
    }
}

/// What imported lines were about.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct LibraryImport {
    /// Lines that say what is known.
    pub same: u64,
    /// Lines whose file is hashed now.
    pub queued: u64,
    /// Lines that are not understood, or name what cannot be in the library.
    pub refused: u64,
    /// The first of these, and why.
    pub first_refused: String,
}

impl Example for LibraryImport {
    fn example() -> Self {
        Self { same: 0, queued: 1, refused: 0, first_refused: String::new() }
    }
}

impl From<Imported> for LibraryImport {
    fn from(i: Imported) -> Self {
        Self { same: i.same, queued: i.queued, refused: i.refused, first_refused: i.first_refused }
    }
}

/// The answers to a scan; busy and late are the gate's.
#[derive(ApiResponse)]
enum Answer {
    #[oai(status = 200)]
    Done(Json<LibraryScan>),
    /// The path is not one of the library, or nothing is there.
    #[oai(status = 400, content_type = "application/problem+json")]
    Refused(Json<Problem>),
    /// This node has no library.
    #[oai(status = 404, content_type = "application/problem+json")]
    NoLibrary(Json<Problem>),
    /// The node itself has trouble (disk, database); its log says more.
    #[oai(status = 500, content_type = "application/problem+json")]
    Broken(Json<Problem>),
}

const SCANS: &str = "/v1/library/scans";
const NO_LIBRARY: &str = "a cacher has no library";

pub(in crate::api) struct ScansApi;

#[OpenApi(prefix_path = "/v1/library", tag = "Tag::Library")]
impl ScansApi {
    /// Scan the library
    ///
    /// Looks through a directory of the library, or all of it: what is new or has changed (size, time or inode) is hashed
    /// in the background, what is gone is forgotten. Symbolic links are not followed; hidden, temporary and the service's
    /// own files are left out. One scan at a time: another one is refused with 503.
    #[oai(path = "/scans", method = "post", operation_id = "scanLibrary")]
    async fn scan(&self, calls: Data<&Calls>, request: Json<LibraryScanRequest>) -> poem::Result<Answer> {
        let (desk, LibraryScanRequest { path, anew }) = (calls.shared(), request.0);
        let path = path.filter(|p| !p.is_empty());
        let scanned = calls.run(SCANS, async move { desk.scan_library(path.as_deref(), anew).await }).await?;
        let problem = |status, detail: &str| Json(Problem::new(status, detail));
        Ok(match scanned {
            Ok(scanned) => Answer::Done(Json(scanned.into())),
            Err(NotScanned::Refused(why)) => Answer::Refused(problem(StatusCode::BAD_REQUEST, &why)),
            Err(NotScanned::NoLibrary) => Answer::NoLibrary(problem(StatusCode::NOT_FOUND, NO_LIBRARY)),
            Err(NotScanned::Busy) => {
                let busy = refusal(StatusCode::SERVICE_UNAVAILABLE, SCANS, "another scan is running, ask again later");
                return Err(poem::Error::from_response(busy));
            }
            Err(NotScanned::Broken(fault)) => {
                tracing::error!(%fault, detail = fault.detail, "a scan failed");
                Answer::Broken(problem(StatusCode::INTERNAL_SERVER_ERROR, &fault.message))
            }
        })
    }

    /// See what is still to hash
    ///
    /// Files are hashed in the background when they have settled: nobody writes to them, and they were quiet for a while.
    /// Those that wait are not lost by a restart.
    #[oai(path = "/queue", method = "get", operation_id = "getLibraryQueue")]
    async fn queue(&self, calls: Data<&Calls>) -> Result<Json<LibraryQueue>, Failed> {
        let waiting = calls.desk().library_queue().await?;
        waiting.map(|w| Json(w.into())).ok_or_else(|| Failed::not_found(NO_LIBRARY))
    }

    /// Import hashes
    ///
    /// Lines of `sha1sum` from elsewhere: 40 hex digits, two blanks, an absolute path. The files that they name are hashed
    /// in the background; a line that says otherwise is told by an event. No line is believed, and nothing is forgotten.
    #[oai(path = "/imports", method = "post", operation_id = "importLibrary")]
    async fn import(&self, calls: Data<&Calls>, request: Json<LibraryImportRequest>) -> Result<Json<LibraryImport>, Failed> {
        let imported = calls.desk().import_library(request.0.lines).await?;
        imported.map(|i| Json(i.into())).ok_or_else(|| Failed::not_found(NO_LIBRARY))
    }
}
