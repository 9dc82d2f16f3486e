//! What the client commands share: where the service is, how to print its answer, and how names are given.

use super::client::{Client, Reply};
use super::exit::{Exit, Failure};
use clap::Args;
use std::path::Path;

/// Where the service is, and how to print.
#[derive(Args, Debug)]
pub struct ServiceArgs {
    /// The service [env: BFT2_URL]
    #[arg(long, value_name = "URL", default_value_t = from_env("BFT2_URL").unwrap_or_else(|| "http://127.0.0.1:8191".into()))]
    pub url: String,
    /// Bearer token, when the service wants one; the environment keeps it out of the process list [env: BFT2_TOKEN]
    #[arg(long, value_name = "TOKEN", hide_default_value = true)]
    pub token: Option<String>,
    /// Print the raw reply
    #[arg(long)]
    pub json: bool,
}

impl ServiceArgs {
    pub fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.url, self.token.clone().or_else(|| from_env("BFT2_TOKEN")))
    }

    /// The raw reply, or `human`.
    pub fn print(&self, reply: &Reply, human: &str) {
        if self.json {
            println!("{}", reply.raw.trim_end());
        } else if !human.is_empty() {
            println!("{human}");
        }
    }

    /// For replies that are a verdict and a text.
    pub fn verdict(&self, reply: &Reply) -> Exit {
        let word = if reply.ok { "" } else { "refused: " };
        self.print(reply, &format!("{word}{}", reply.desc()));
        if reply.ok { Exit::Ok } else { Exit::Refused }
    }
}

pub fn from_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// A path for the service, which runs in another directory.
pub fn absolute(path: &Path) -> Result<String, Failure> {
    let full = std::path::absolute(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    match full.to_str() {
        Some(text) => Ok(text.trim_end_matches('/').to_owned()),
        None => Err(Failure::usage(format!("{}: the name is not UTF-8", path.display()))),
    }
}

/// `progress`, `uploadprogress` and `cancel` take the bare name of a task file; a path is welcome too.
pub fn task_name(path: &str) -> Result<String, Failure> {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if name.is_empty() {
        return Err(Failure::usage("give the name of a task file: cfec-001-film.task.json"));
    }
    // `cfec-001-film` is what people type.
    Ok(if name.ends_with(".json") { name.to_owned() } else { format!("{name}.task.json") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_names_are_taken_from_what_people_give() {
        for given in ["cfec-001-film", "cfec-001-film.task.json", "/data/receiver/tmp/cfec-001-film.task.json"] {
            assert_eq!(task_name(given).expect("a name"), "cfec-001-film.task.json");
        }
        assert!(task_name("").is_err() && task_name("/").is_err());
    }
}
