//! The configuration in force, shared by the whole process.

use super::edit::edit;
use super::{Config, ConfigError};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Cheap to clone; everybody sees a reload at the next [`ConfigHandle::current`]. What was taken before stays as it was,
/// so a piece of work sees one configuration from its start to its end.
#[derive(Clone, Debug)]
pub struct ConfigHandle {
    path: Arc<Path>,
    current: Arc<RwLock<Arc<Config>>>,
}

impl ConfigHandle {
    /// Reads the file; returns the warnings with the handle.
    pub fn load(path: impl Into<PathBuf>) -> Result<(Self, Vec<String>), ConfigError> {
        let path = path.into();
        let (config, warnings) = Config::load(&path)?;
        Ok((Self::new(path, config), warnings))
    }

    /// A configuration that was made in the program; `path` is where a reload looks.
    pub fn new(path: impl Into<PathBuf>, config: Config) -> Self {
        Self { path: path.into().into(), current: Arc::new(RwLock::new(Arc::new(config))) }
    }

    pub fn current(&self) -> Arc<Config> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of the file, and what it becomes when `given` replaces it. Nothing is written. See [`edit`].
    pub fn edited(&self, given: &Value) -> Result<(String, String), ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: self.path.to_path_buf(), source };
        let text = std::fs::read_to_string(&self.path).map_err(unreadable)?;
        let (old, _) = Config::parse(text.as_bytes())?;
        let new = edit(&text, &old.masked_json(), given)?;
        if new.len() as u64 > super::MAX_BYTES {
            return Err(ConfigError::TooLarge { path: self.path.to_path_buf() });
        }
        Config::parse(new.as_bytes())?;
        Ok((text, new))
    }

    /// Reads the file again and puts it in force when it is right; otherwise the old one stays. Returns the warnings, among
    /// them the keys that take effect only at the next start.
    pub fn reload(&self) -> Result<Vec<String>, ConfigError> {
        let (mut new, mut warnings) = Config::load(&self.path)?;
        let old = self.current();
        // What the process took at its start stays in force: half of a changed directory or role would be worse.
        macro_rules! keep {
            ($($key:ident),+) => {
                $(if new.$key != old.$key {
                    new.$key = old.$key.clone();
                    let key = stringify!($key);
                    let then = if matches!(key, "servertype" | "receiverstoreplan") { "; the hash table is rebuilt then" } else { "" };
                    warnings.push(format!("{key} has changed: it takes effect when the service is restarted{then}"));
                })+
            };
        }
        keep!(
            servertype,
            basedatapath,
            receiverstoreplan,
            datadir,
            database,
            logdir,
            loglevel,
            listen,
            console,
            token,
            btlisten,
            trackerlisten,
            weblisten,
            stoptimeout
        );
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(warnings)
    }
}
