//! The library: files by name or hash, packages with their verdicts, duplicates.

use poem::web::Data;
use poem_openapi::param::Query;
use poem_openapi::payload::Json;
use poem_openapi::types::Example;
use poem_openapi::{Object, OpenApi};

use super::super::Tag;
use super::packages::Package;
use super::page::{Page, Wanted, default_limit};
use super::problem::Failed;
use super::tasks::{count, example_time};
use crate::desk::overview::{DuplicateListed, LibraryFilter, LibraryListed, Overview, Time, local_time};
use crate::model::ids::Sha1;

/// A file of the library, with the SHA-1 that was computed here.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct LibraryFile {
    /// Absolute.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha1: String,
    /// When it was hashed.
    pub hashed_at: Time,
    /// Directory of the package that it belongs to; empty when to none.
    pub package: String,
}

impl Example for LibraryFile {
    fn example() -> Self {
        Self {
            path: "/data/dcp/xiaofang/ASSETMAP.xml".into(),
            size: 1466,
            sha1: "af11b565fc46fb87fa068c7ab89cb8eec3fdd4a9".into(),
            hashed_at: example_time(0),
            package: "/data/dcp/xiaofang".into(),
        }
    }
}

impl From<LibraryListed> for LibraryFile {
    fn from(f: LibraryListed) -> Self {
        Self { path: f.path, size: count(f.size), sha1: f.sha1, hashed_at: local_time(f.hashed_at), package: f.package }
    }
}

/// Files with the same bytes.
#[derive(Clone, Debug, PartialEq, Object)]
#[oai(example)]
pub struct Duplicate {
    /// Lower-case hex.
    pub sha1: String,
    /// Bytes of one of them.
    pub size: u64,
    /// How many there are.
    pub copies: u64,
    /// Bytes that one copy alone would save.
    pub bytes_wasted: u64,
    /// Where they are, absolute; at most 100.
    pub paths: Vec<String>,
}

impl Example for Duplicate {
    fn example() -> Self {
        Self {
            sha1: "af11b565fc46fb87fa068c7ab89cb8eec3fdd4a9".into(),
            size: 1466,
            copies: 2,
            bytes_wasted: 1466,
            paths: vec!["/data/dcp/xiaofang/ASSETMAP.xml".into(), "/data/dcp/xiaofang2/ASSETMAP.xml".into()],
        }
    }
}

impl From<DuplicateListed> for Duplicate {
    fn from(d: DuplicateListed) -> Self {
        let bytes_wasted = d.copies.saturating_sub(1).saturating_mul(d.size);
        Self { sha1: d.sha1, size: d.size, copies: d.copies, bytes_wasted, paths: d.paths }
    }
}

pub(in crate::api) struct LibraryApi;

#[OpenApi(prefix_path = "/v1/library", tag = "Tag::Library")]
impl LibraryApi {
    /// Search files
    ///
    /// By path.
    #[oai(path = "/files", method = "get", operation_id = "listLibraryFiles")]
    async fn files(
        &self,
        overview: Data<&Overview>,
        /// Part of the path.
        search: Query<Option<String>>,
        /// Only files with this SHA-1 (40 hex digits).
        sha1: Query<Option<String>>,
        /// Only files of the package in this directory.
        package: Query<Option<String>>,
        /// Rows of the page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u32>,
        /// `next` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Page<LibraryFile>>, Failed> {
        let wanted = Wanted::new(limit.0, cursor.0);
        let sha1 = match sha1.0.as_deref() {
            None | Some("") => None,
            Some(text) => Some(Sha1::from_hex(&text.to_ascii_lowercase()).map_err(|e| Failed::bad(e.to_string()))?),
        };
        let given = |text: Option<String>| text.filter(|t| !t.is_empty());
        let filter = LibraryFilter { search: given(search.0), sha1, package: given(package.0) };
        let rows = overview.store.list_library(&filter, wanted.after_text(), wanted.rows()).await?;
        Ok(Json(wanted.page(rows, |f| f.path.clone(), LibraryFile::from)))
    }

    /// Search packages
    ///
    /// By path.
    #[oai(path = "/packages", method = "get", operation_id = "listPackages")]
    async fn packages(
        &self,
        overview: Data<&Overview>,
        /// Part of the name or of a title.
        search: Query<Option<String>>,
        /// Rows of the page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u32>,
        /// `next` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Page<Package>>, Failed> {
        let wanted = Wanted::new(limit.0, cursor.0);
        let search = search.0.filter(|s| !s.is_empty());
        let rows = overview.store.list_packages(search.as_deref(), wanted.after_text(), wanted.rows()).await?;
        Ok(Json(wanted.page(rows, |p| p.path.clone(), Package::from)))
    }

    /// List duplicates
    ///
    /// Files that lie in the library more than once; what wastes most comes first.
    #[oai(path = "/duplicates", method = "get", operation_id = "listDuplicates")]
    async fn duplicates(
        &self,
        overview: Data<&Overview>,
        /// Rows of the page.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u32>,
        /// `next` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<Page<Duplicate>>, Failed> {
        let wanted = Wanted::new(limit.0, cursor.0);
        // Their order is by what they waste, which is no key: the cursor counts.
        let skip = u32::try_from(wanted.after_number()?.unwrap_or(0)).map_err(|_| Failed::bad("cursor: too large"))?;
        let rows = overview.store.list_duplicates(skip, wanted.rows()).await?;
        let shown = (rows.len() as u32).min(wanted.rows() - 1);
        Ok(Json(wanted.page(rows, |_| skip.saturating_add(shown).to_string(), Duplicate::from)))
    }
}
