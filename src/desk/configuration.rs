//! The configuration from outside: read masked, and replaced (protocol section 3.10).

use super::{Desk, Reply};
use crate::config::{Config, ConfigError};
use crate::views;
use serde_json::Value;
use std::path::PathBuf;

impl Desk {
    /// Every key as the file has it, defaults included; secrets are masked. What waits for a restart is in the file, and
    /// a client that sends back what it got must not undo it.
    pub async fn config(&self) -> Value {
        let handle = self.config.clone();
        let file = tokio::task::spawn_blocking(move || Config::load(handle.path())).await;
        match file {
            Ok(Ok((config, _))) => config.masked_json(),
            _ => self.config.current().masked_json(),
        }
    }

    /// Replaces the configuration file and puts it in force. Nothing changes when a value is wrong.
    pub async fn put_config(&self, given: Value) -> Reply {
        let _one = self.admission.lock().await;
        let wrong = |e: &ConfigError| Reply::err(format!("reload config json error: {e}; the old configuration stays"));
        let (old, new) = match self.config.edited(&given) {
            Ok(texts) => texts,
            Err(e) => return wrong(&e),
        };
        let path = self.config.path();
        let mut backup = path.as_os_str().to_owned();
        backup.push(".bak");
        let written =
            views::write_file(&PathBuf::from(backup), old.as_bytes()).and_then(|()| views::write_file(path, new.as_bytes()));
        if let Err(fault) = written {
            return Reply::err(format!("reload config json error: {}; the old configuration stays", fault.message));
        }
        let text = self.reloadconf().await;
        if text.starts_with("reload config json ok.") { Reply::ok(text) } else { Reply::err(text) }
    }
}
