//! Packages are recognised by their documents, whoever put them into the library, and their verdict is kept.
//!
//! A review looks at the disk and at the rows of `library_files`, and writes down what follows: the verdict, titles, reels,
//! which package holds which track file, and what the packing list claims about files that were not hashed yet. It never
//! hashes essence. It may be asked for as often as anybody likes: what is as it was seen last is not read again.
//!
//! Whoever changes the library says so: `table` after files were hashed or a scan found something, `work` after a package
//! was received or generated, `app` at the start.
//!
//! * [`find`] — which packages a path has to do with.
//! * [`examine`] — one package, from its files to its rows.

mod examine;
mod find;
#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::error::Fault;
use crate::library::place::Place;
use crate::store::Store;
use crate::store::events::Level;
use crate::store::packages::KnownPackage;
use examine::{Found, NO_LIST, Standing, examine, is_good};
use find::{Asked, candidates, packages_of};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// How often a package is looked at again when somebody else writes its row meanwhile.
const TRIES: u32 = 5;
/// Paths that are asked for in one query.
const BATCH: usize = 1000;

/// See the module's text.
#[derive(Clone)]
pub struct Packages {
    store: Store,
    place: Place,
    clock: Clock,
}

impl Packages {
    pub fn new(store: Store, place: Place, clock: Clock) -> Self {
        Self { store, place, clock }
    }

    /// Reviews every package of the library: those on the disk and those that have rows.
    pub async fn review_all(&self) -> Result<(), Fault> {
        self.review(std::slice::from_ref(&self.place.base)).await
    }

    /// Reviews the packages that hold these paths (files that were hashed, have changed or are gone, or directories), and
    /// those below them. A fault is the database's: trouble with a package is its verdict.
    pub async fn review(&self, touched: &[PathBuf]) -> Result<(), Fault> {
        let mut done = HashSet::new();
        for touched in touched.chunks(BATCH) {
            for package in self.find(touched).await? {
                if !done.contains(&package) {
                    self.look_at(&package).await?;
                    done.insert(package);
                }
            }
        }
        Ok(())
    }

    async fn find(&self, touched: &[PathBuf]) -> Result<Vec<String>, Fault> {
        let touched: Vec<String> = touched.iter().filter_map(|p| p.to_str().map(str::to_owned)).collect();
        let above = candidates(&self.place, &touched);
        let above: Vec<&str> = above.iter().map(String::as_str).collect();
        let known = self.store.packages_among(&above).await?.into_iter().collect();
        let below = self.store.packages_below(&touched.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        let place = self.place.clone();
        blocking(move || packages_of(&place, Asked { touched, known, below })).await
    }

    async fn look_at(&self, path: &str) -> Result<(), Fault> {
        for _ in 0..TRIES {
            let known = self.store.known_package(path).await?;
            let rows = self.store.library_below(Path::new(path)).await?;
            let (place, dir, seen) = (self.place.clone(), path.to_owned(), known.as_ref().and_then(|k| k.seen));
            let found = blocking(move || examine(&place, &dir, rows, seen)).await?;
            let written = match (found, &known) {
                (Found::AsSeen, _) | (Found::Gone | Found::NoDocuments, None) => true,
                (Found::NoDocuments, Some(known)) if known.verdict == NO_LIST => true,
                (Found::Gone | Found::NoDocuments, Some(known)) => self.store.forget_package(path, known.revision).await?,
                (Found::Package(facts, standing), known) => {
                    let revision = known.as_ref().map(|k| k.revision);
                    let written = self.store.record_package(&facts, revision, self.clock.now_ms()).await?;
                    if written {
                        self.tell(path, known.as_ref(), &facts.row.verdict, standing).await;
                    }
                    written
                }
            };
            if written {
                return Ok(());
            }
        }
        tracing::info!(path, "the package keeps changing: it is looked at another time");
        Ok(())
    }

    /// Damage is news, and so is its end.
    async fn tell(&self, path: &str, known: Option<&KnownPackage>, verdict: &str, standing: Standing) {
        let was_good = known.is_none_or(|k| is_good(&k.verdict));
        let changed = known.is_none_or(|k| k.verdict != verdict);
        let level = match standing {
            Standing::Bad if changed => Level::Warn,
            Standing::Good if !was_good => Level::Info,
            _ => return,
        };
        let text = format!("{path}: {verdict}");
        match level {
            Level::Info => tracing::info!("{text}"),
            _ => tracing::warn!("{text}"),
        }
        if let Err(fault) = self.store.add_event(level, "package", "", "packages", &text, self.clock.now_ms()).await {
            tracing::error!(%fault, "cannot write an event");
        }
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(f).await.map_err(|e| Fault::local(format!("looking at packages: {e}")))
}
