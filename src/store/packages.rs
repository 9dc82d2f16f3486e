//! Packages of the library as their documents describe them: compositions, reels, what lies where, what is claimed.
//!
//! What is written here is the outcome of a look at the disk, which takes its time. Every writer of a package's row counts
//! its revision up; who looked is told when another one was faster, and looks again.

use super::library::{LibraryFile, PackageRow};
use super::{Store, db_fault, i, u};
use crate::error::Fault;
use crate::model::ids::Sha1;
use serde_json::json;
use sqlx::{Sqlite, Transaction};
use std::collections::HashMap;

/// What a look at a package found.
#[derive(Clone, Debug)]
pub struct PackageFacts {
    pub row: PackageRow,
    /// `SMPTE`, `Interop`, `other`; empty when the documents could not be read.
    pub standard: &'static str,
    /// Over everything that the verdict is about; `None`: look again next time.
    pub seen: Option<Sha1>,
    pub compositions: Vec<CompositionRow>,
    /// Identity and path inside the package of the files that are there.
    pub assets: Vec<(String, String)>,
    /// Track files that it plays and does not hold.
    pub needs: Vec<Need>,
    /// What its documents say about files, whether these were hashed here or not.
    pub claims: Vec<LibraryFile>,
}

/// A composition. Identities are UUIDs in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompositionRow {
    pub id: String,
    pub title: String,
    pub kind: String,
    pub duration: u64,
    pub rate: Option<RateRow>,
    pub reels: Vec<ReelRow>,
    /// There may be more than are listed.
    pub reel_count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReelRow {
    pub id: Option<String>,
    pub picture: Option<String>,
    pub sound: Option<String>,
    pub subtitle: Option<String>,
    pub duration: u64,
    pub rate: Option<RateRow>,
}

/// So many units in so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateRow {
    pub units: u32,
    pub seconds: u32,
}

impl RateRow {
    fn read(units: i64, seconds: i64) -> Option<Self> {
        let rate = Self { units: units.try_into().ok()?, seconds: seconds.try_into().ok()? };
        (rate.units > 0).then_some(rate)
    }
}

#[derive(sqlx::FromRow)]
struct PackageColumns {
    path: String,
    name: String,
    verdict: String,
    title: String,
    files: i64,
    bytes: i64,
    checked_at: i64,
    standard: String,
    /// JSON.
    ov: String,
}

#[derive(sqlx::FromRow)]
struct CompositionColumns {
    package: String,
    id: String,
    title: String,
    kind: String,
    reels: i64,
    duration: i64,
    rate_units: i64,
    rate_seconds: i64,
}

#[derive(sqlx::FromRow)]
struct ReelColumns {
    package: String,
    composition: String,
    id: Option<String>,
    picture: Option<String>,
    sound: Option<String>,
    subtitle: Option<String>,
    duration: i64,
    rate_units: i64,
    rate_seconds: i64,
}

/// A track file of another package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub asset: String,
    /// What the composition calls it.
    pub name: String,
    /// The composition that plays it.
    pub title: String,
}

/// A package of the library.
#[derive(Clone, Debug)]
pub struct PackageListed {
    pub path: String,
    pub name: String,
    /// With the OV that a version file needs, if it is not there.
    pub verdict: String,
    pub title: String,
    pub files: i64,
    pub bytes: i64,
    pub checked_at: i64,
    pub standard: String,
    /// Packages with track files that it plays and does not hold.
    pub ov: Vec<String>,
    pub compositions: Vec<CompositionRow>,
}

/// A package's row as a look at it begins.
#[derive(Clone, Debug)]
pub struct KnownPackage {
    pub verdict: String,
    pub revision: i64,
    pub seen: Option<Sha1>,
}

impl Store {
    pub async fn known_package(&self, path: &str) -> Result<Option<KnownPackage>, Fault> {
        let row: Option<(String, i64, Option<Vec<u8>>)> =
            sqlx::query_as("SELECT verdict, revision, seen FROM packages WHERE path = ?")
                .bind(path)
                .fetch_optional(&self.readers)
                .await
                .map_err(db_fault)?;
        Ok(row.map(|(verdict, revision, seen)| {
            let seen = seen.and_then(|s| s.try_into().ok()).map(Sha1);
            KnownPackage { verdict, revision, seen }
        }))
    }

    /// Those of the paths that are packages.
    pub async fn packages_among(&self, paths: &[&str]) -> Result<Vec<String>, Fault> {
        sqlx::query_scalar("SELECT path FROM packages WHERE path IN (SELECT value FROM json_each(?))")
            .bind(json!(paths).to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(db_fault)
    }

    /// The packages below any of these directories.
    pub async fn packages_below(&self, dirs: &[&str]) -> Result<Vec<String>, Fault> {
        sqlx::query_scalar(
            "SELECT DISTINCT p.path FROM json_each(?) AS n CROSS JOIN packages p \
             ON p.path > n.value || '/' AND p.path < n.value || '0'", // '0' follows '/'
        )
        .bind(json!(dirs).to_string())
        .fetch_all(&self.readers)
        .await
        .map_err(db_fault)
    }

    /// Writes what a look found, all of it or nothing. `false`: the row is not that of `revision` any more.
    pub async fn record_package(&self, facts: &PackageFacts, revision: Option<i64>, now_ms: i64) -> Result<bool, Fault> {
        let dir = facts.row.path.to_string_lossy().into_owned();
        let mut tx = self.begin().await?;
        if current_revision(&mut tx, &dir).await? != revision {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO packages (path, name, verdict, title, files, bytes, checked_at, standard, ours, seen) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?) ON CONFLICT (path) DO UPDATE SET verdict = excluded.verdict, \
             title = excluded.title, files = excluded.files, bytes = excluded.bytes, checked_at = excluded.checked_at, \
             standard = excluded.standard, seen = excluded.seen, revision = revision + 1",
        )
        .bind(&dir)
        .bind(&facts.row.name)
        .bind(&facts.row.verdict)
        .bind(&facts.row.title)
        .bind(i(facts.row.files))
        .bind(i(facts.row.bytes))
        .bind(now_ms)
        .bind(facts.standard)
        .bind(facts.seen.map(|s| s.0.to_vec()))
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        // A package inside this one keeps its files: its path is longer.
        sqlx::query(
            "UPDATE library_files SET package = ?1 WHERE path > ?1 || '/' AND path < ?1 || '0' AND length(package) < length(?1)",
        )
        .bind(&dir)
        .execute(&mut *tx)
        .await
        .map_err(db_fault)?;
        write_documents(&mut tx, &dir, facts).await?;
        write_claims(&mut tx, &dir, &facts.claims).await?;
        tx.commit().await.map_err(db_fault)?;
        Ok(true)
    }

    /// The package is gone, or none any more: so is all that was known of it. `false`: the row is not that of `revision`.
    pub async fn forget_package(&self, path: &str, revision: i64) -> Result<bool, Fault> {
        let mut tx = self.begin().await?;
        if current_revision(&mut tx, path).await? != Some(revision) {
            return Ok(false);
        }
        for sql in ["DELETE FROM packages WHERE path = ?", "UPDATE library_files SET package = '' WHERE package = ?"] {
            sqlx::query(sql).bind(path).execute(&mut *tx).await.map_err(db_fault)?;
        }
        tx.commit().await.map_err(db_fault)?;
        Ok(true)
    }

    /// By path, from the path after `after`. `search`: part of the name or of a title.
    pub async fn list_packages(
        &self,
        search: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<PackageListed>, Fault> {
        let rows: Vec<PackageColumns> = sqlx::query_as(
            "SELECT p.path, p.name, v.verdict, p.title, p.files, p.bytes, p.checked_at, p.standard, \
             (SELECT json_group_array(path) FROM (SELECT DISTINCT a.package AS path FROM package_needs n \
             JOIN package_assets a ON a.asset = n.asset WHERE n.package = p.path ORDER BY 1)) AS ov \
             FROM packages p JOIN v_packages v ON v.path = p.path WHERE p.path > ?1 \
             AND (?2 IS NULL OR instr(lower(p.name), lower(?2)) > 0 OR instr(lower(p.title), lower(?2)) > 0 \
             OR EXISTS (SELECT 1 FROM compositions c WHERE c.package = p.path AND instr(lower(c.title), lower(?2)) > 0)) \
             ORDER BY p.path LIMIT ?3",
        )
        .bind(after.unwrap_or(""))
        .bind(search)
        .bind(limit)
        .fetch_all(&self.viewers)
        .await
        .map_err(db_fault)?;
        let paths: Vec<&str> = rows.iter().map(|p| p.path.as_str()).collect();
        let mut compositions = self.compositions_of(&paths).await?;
        let listed = |row: PackageColumns| PackageListed {
            compositions: compositions.remove(&row.path).unwrap_or_default(),
            path: row.path,
            name: row.name,
            verdict: row.verdict,
            title: row.title,
            files: row.files,
            bytes: row.bytes,
            checked_at: row.checked_at,
            standard: row.standard,
            ov: serde_json::from_str(&row.ov).unwrap_or_default(),
        };
        Ok(rows.into_iter().map(listed).collect())
    }

    /// The compositions of packages, by title.
    async fn compositions_of(&self, packages: &[&str]) -> Result<HashMap<String, Vec<CompositionRow>>, Fault> {
        let packages = json!(packages).to_string();
        let rows: Vec<CompositionColumns> = sqlx::query_as(
            "SELECT package, id, title, kind, reels, duration, rate_units, rate_seconds FROM compositions \
             WHERE package IN (SELECT value FROM json_each(?)) ORDER BY package, title, id",
        )
        .bind(&packages)
        .fetch_all(&self.viewers)
        .await
        .map_err(db_fault)?;
        let reels: Vec<ReelColumns> = sqlx::query_as(
            "SELECT package, composition, id, picture, sound, subtitle, duration, rate_units, rate_seconds FROM reels \
             WHERE package IN (SELECT value FROM json_each(?)) ORDER BY package, composition, idx",
        )
        .bind(&packages)
        .fetch_all(&self.viewers)
        .await
        .map_err(db_fault)?;
        let mut by_composition: HashMap<(String, String), Vec<ReelRow>> = HashMap::new();
        for r in reels {
            let rate = RateRow::read(r.rate_units, r.rate_seconds);
            let reel =
                ReelRow { id: r.id, picture: r.picture, sound: r.sound, subtitle: r.subtitle, duration: u(r.duration), rate };
            by_composition.entry((r.package, r.composition)).or_default().push(reel);
        }
        let mut out: HashMap<String, Vec<CompositionRow>> = HashMap::new();
        for c in rows {
            let key = (c.package, c.id);
            let row = CompositionRow {
                reels: by_composition.remove(&key).unwrap_or_default(),
                id: key.1,
                title: c.title,
                kind: c.kind,
                duration: u(c.duration),
                rate: RateRow::read(c.rate_units, c.rate_seconds),
                reel_count: u(c.reels),
            };
            out.entry(key.0).or_default().push(row);
        }
        Ok(out)
    }

    /// Nothing counts any more that packing lists claim, as long as the files stay as they are.
    pub async fn settle_claims(&self) -> Result<(), Fault> {
        sqlx::query("UPDATE library_claims SET settled = 1 WHERE settled = 0").execute(&self.writer).await.map_err(db_fault)?;
        Ok(())
    }
}

async fn current_revision(tx: &mut Transaction<'static, Sqlite>, path: &str) -> Result<Option<i64>, Fault> {
    sqlx::query_scalar("SELECT revision FROM packages WHERE path = ?")
        .bind(path)
        .fetch_optional(&mut **tx)
        .await
        .map_err(db_fault)
}

/// Rows in JSON, for the one statement that inserts them.
async fn insert(
    tx: &mut Transaction<'static, Sqlite>,
    sql: &'static str,
    dir: &str,
    rows: Vec<serde_json::Value>,
) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let done = sqlx::query(sql).bind(dir).bind(json!(rows).to_string()).execute(&mut **tx).await;
    done.map(|_| ()).map_err(db_fault)
}

async fn write_documents(tx: &mut Transaction<'static, Sqlite>, dir: &str, facts: &PackageFacts) -> Result<(), Fault> {
    for sql in [
        "DELETE FROM compositions WHERE package = ?",
        "DELETE FROM package_assets WHERE package = ?",
        "DELETE FROM package_needs WHERE package = ?",
    ] {
        sqlx::query(sql).bind(dir).execute(&mut **tx).await.map_err(db_fault)?;
    }
    let rate = |rate: Option<RateRow>| rate.map_or((0, 1), |r| (r.units, r.seconds));
    let (mut compositions, mut reels) = (Vec::new(), Vec::new());
    for c in &facts.compositions {
        let (units, seconds) = rate(c.rate);
        compositions.push(json!([c.id, c.title, c.kind, i(c.reel_count), i(c.duration), units, seconds]));
        for (n, r) in (1..).zip(&c.reels) {
            let (units, seconds) = rate(r.rate);
            reels.push(json!([c.id, n, r.id, r.picture, r.sound, r.subtitle, i(r.duration), units, seconds]));
        }
    }
    insert(
        tx,
        "INSERT OR IGNORE INTO compositions (package, id, title, kind, reels, duration, rate_units, rate_seconds) \
         SELECT ?1, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6 FROM json_each(?2)",
        dir,
        compositions,
    )
    .await?;
    insert(
        tx,
        "INSERT OR IGNORE INTO reels (package, composition, idx, id, picture, sound, subtitle, duration, rate_units, rate_seconds) \
         SELECT ?1, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8 FROM json_each(?2)",
        dir,
        reels,
    )
    .await?;
    insert(
        tx,
        "INSERT OR IGNORE INTO package_assets (package, asset, path) SELECT ?1, value->>0, value->>1 FROM json_each(?2)",
        dir,
        facts.assets.iter().map(|(asset, path)| json!([asset, path])).collect(),
    )
    .await?;
    insert(
        tx,
        "INSERT OR IGNORE INTO package_needs (package, asset, name, title) \
         SELECT ?1, value->>0, value->>1, value->>2 FROM json_each(?2)",
        dir,
        facts.needs.iter().map(|n| json!([n.asset, n.name, n.title])).collect(),
    )
    .await
}

/// A claim about a file that was hashed here is settled from the beginning. One that is settled stays so while nothing
/// about it changes: who takes a file out of the hash table does not mean that the packing list counts from now on.
async fn write_claims(tx: &mut Transaction<'static, Sqlite>, dir: &str, claims: &[LibraryFile]) -> Result<(), Fault> {
    let rows: Vec<_> =
        claims.iter().map(|f| json!([f.path.to_string_lossy(), i(f.size), f.mtime_ns, i(f.inode), f.sha1])).collect();
    let rows = json!(rows).to_string();
    let same = "excluded.size = size AND excluded.mtime_ns = mtime_ns AND excluded.inode = inode AND excluded.sha1 = sha1";
    let sql = format!(
        "INSERT INTO library_claims (path, package, size, mtime_ns, inode, sha1, settled) \
         SELECT value->>0, ?1, value->>1, value->>2, value->>3, unhex(value->>4), \
         EXISTS (SELECT 1 FROM library_files f WHERE f.path = value->>0) FROM json_each(?2) WHERE true \
         ON CONFLICT (path) DO UPDATE SET settled = max(excluded.settled, iif({same}, settled, 0)), package = excluded.package, \
         size = excluded.size, mtime_ns = excluded.mtime_ns, inode = excluded.inode, sha1 = excluded.sha1"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(dir).bind(&rows).execute(&mut **tx).await.map_err(db_fault)?;
    sqlx::query("DELETE FROM library_claims WHERE package = ?1 AND path NOT IN (SELECT value->>0 FROM json_each(?2))")
        .bind(dir)
        .bind(&rows)
        .execute(&mut **tx)
        .await
        .map_err(db_fault)?;
    Ok(())
}
