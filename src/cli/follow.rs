//! `--watch`: asks again until the answer is final, with meters. The demo follows its network with the same code.

use super::amount;
use super::bars::{Bars, Meter};
use super::client::{Client, Download, Reply, Upload};
use super::exit::{Exit, Failure};
use crate::model::span::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A service that restarts is away for a while; longer than this is a failure.
const AWAY: Duration = Duration::from_secs(60);

/// So many times "nothing is being made" in a row is the last word.
const IDLE: u32 = 5;

/// How to ask.
pub struct Follow<'a> {
    pub client: &'a Client,
    pub bars: &'a Bars,
    /// Between two questions.
    pub every: Duration,
    /// Give up when the answer has not changed for so long. `None`: a window may be days away, wait.
    pub patience: Option<Duration>,
}

impl<'a> Follow<'a> {
    /// For the commands of an operator: once a second, for ever.
    pub fn patient(client: &'a Client, bars: &'a Bars) -> Self {
        Self { client, bars, every: Duration::from_secs(1), patience: None }
    }

    /// Asks `method` until `last` says that this was the last reply that matters.
    async fn poll(&self, method: &str, params: &Value, mut last: impl FnMut(&Reply) -> bool) -> Result<Reply, Failure> {
        // A service that never answered is not one that restarts.
        let mut answered: Option<Instant> = None;
        let mut changed = Instant::now();
        let mut before = None;
        loop {
            match self.client.call(method, params.clone()).await {
                Ok(reply) => {
                    answered = Some(Instant::now());
                    if last(&reply) {
                        return Ok(reply);
                    }
                    if before.as_ref() != Some(reply.content()) {
                        before = Some(reply.content().clone());
                        changed = Instant::now();
                    }
                }
                Err(e) if e.exit == Exit::Unreachable && answered.is_some_and(|at| at.elapsed() < AWAY) => {}
                Err(e) => return Err(e),
            }
            if let Some(patience) = self.patience.filter(|p| changed.elapsed() > *p) {
                let state = before.map(Value::Object).unwrap_or_default();
                let text = format!("{method}: nothing has changed for {} s; the last answer was {state}", patience.as_secs());
                return Err(Failure::new(Exit::NotFinished, text));
            }
            tokio::time::sleep(self.every).await;
        }
    }

    /// `taskfilesquery` until the task file and the torrents are there, or an error.
    pub async fn generation(&self, dcppath: &str, taskfile: &str) -> Result<Reply, Failure> {
        let meter = self.bars.work("gentask");
        let params = json!({"dcppath": dcppath, "taskfile": taskfile});
        let mut idle = 0;
        let last = |r: &Reply| {
            meter.note(&r.desc());
            // Never begun, or cancelled: it would be waited for in vain.
            idle = if r.desc().starts_with("no make seed process") { idle + 1 } else { 0 };
            idle >= IDLE || generation_exit(r) != Exit::NotFinished
        };
        let reply = tokio::select! {
            reply = self.poll("taskfilesquery", &params, last) => reply?,
            never = self.hashing(taskfile) => match never {},
        };
        meter.done(&reply.status());
        Ok(reply)
    }

    /// A bar over the bytes that are hashed, where the service tells. Ends by being dropped.
    async fn hashing(&self, taskfile: &str) -> std::convert::Infallible {
        let mut meter = None;
        // What is over at the first question needs no bar.
        tokio::time::sleep(self.every).await;
        while let Some((done, total)) = self.client.generation(taskfile).await {
            if total > 0 {
                meter.get_or_insert_with(|| self.bars.bytes("hash", total)).set(done);
            }
            tokio::time::sleep(self.every).await;
        }
        std::future::pending().await
    }

    /// The library's queue until nothing is left in it.
    pub async fn hash_queue(&self) -> Result<(), Failure> {
        let (mut meter, mut most, mut answered) = (None, 0, None::<Instant>);
        loop {
            match self.client.hash_queue().await {
                Ok(queue) if queue.is_empty() => break,
                Ok(queue) => {
                    answered = Some(Instant::now());
                    most = queue.bytes.max(most);
                    let meter = meter.get_or_insert_with(|| self.bars.bytes("hash", most));
                    // Empty files, or files of unknown size: there is nothing to draw.
                    if most > 0 {
                        meter.total(most);
                        meter.set(most - queue.bytes);
                    }
                    meter.note(&format!("{} files left", queue.files));
                }
                Err(e) if e.exit == Exit::Unreachable && answered.is_some_and(|at| at.elapsed() < AWAY) => {}
                Err(e) => return Err(e),
            }
            tokio::time::sleep(self.every).await;
        }
        if let Some(meter) = meter {
            meter.done("done");
        }
        Ok(())
    }

    /// `uploadprogress` until receivers may be told, the service is over, or an error.
    pub async fn upload(&self, task: &str) -> Result<Reply, Failure> {
        let meter = self.bars.work("send");
        let last = |r: &Reply| {
            let u = Upload::from(r);
            meter.note(&format!("{}: bt {}, obs {}, cdn {}", u.status, u.bt, u.obs, u.cdn));
            upload_exit(&u) != Exit::NotFinished
        };
        let reply = self.poll("uploadprogress", &json!({"taskfile": task}), last).await?;
        meter.done(&reply.status());
        Ok(reply)
    }

    /// `cprogress` until it seeds, or an error.
    pub async fn cacher(&self, task: &str) -> Result<Reply, Failure> {
        let meter = self.bars.work("cacher");
        let last = |r: &Reply| {
            meter.note(&r.status());
            !r.ok || r.status() != "noseeding"
        };
        let params = json!({"taskfile": task});
        let reply = tokio::select! {
            reply = self.poll("cprogress", &params, last) => reply?,
            // The seed time is over, or the task was cancelled: it will not seed again.
            () = self.over(task) => self.client.call("cprogress", params.clone()).await?,
        };
        meter.done(&reply.status());
        Ok(reply)
    }

    /// Resolves when a reception is over, where the service tells.
    async fn over(&self, task: &str) {
        loop {
            tokio::time::sleep(self.every).await;
            match self.client.reception_state(task).await.as_deref() {
                Some("downloaded" | "history") => return,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// `progress` until the package is in its store, or an error. `seen` looks at every reply on the way.
    pub async fn download(&self, task: &str, mut seen: impl FnMut(&Download)) -> Result<Reply, Failure> {
        let mut meters = Meters::default();
        let last = |r: &Reply| {
            let d = Download::from(r);
            meters.show(self.bars, &d);
            seen(&d);
            download_exit(&d) != Exit::NotFinished
        };
        let reply = self.poll("progress", &json!({"taskfile": task}), last).await?;
        meters.end(&Download::from(&reply));
        Ok(reply)
    }
}

/// One meter per method that has something to fetch.
#[derive(Default)]
struct Meters<'a> {
    waiting: Option<Meter<'a>>,
    methods: [Option<Meter<'a>>; 3],
}

impl<'a> Meters<'a> {
    fn show(&mut self, bars: &'a Bars, d: &Download) {
        if d.status != "downloading" && d.status != "downloaded" {
            self.waiting.get_or_insert_with(|| bars.work("recv")).note(if d.status.is_empty() { &d.desc } else { &d.status });
            return;
        }
        if let Some(meter) = self.waiting.take() {
            meter.clear();
        }
        for ((method, share), meter) in Method::ALL.iter().zip(&d.methods).zip(&mut self.methods) {
            let total = share.to_fetch.max(share.done);
            if total == 0 {
                continue;
            }
            let meter = meter.get_or_insert_with(|| bars.bytes(method.as_str(), total));
            meter.total(total);
            meter.set(share.done);
        }
    }

    fn end(&self, d: &Download) {
        let fine = download_exit(d) == Exit::Ok;
        for (share, meter) in d.methods.iter().zip(&self.methods) {
            if let Some(meter) = meter {
                meter.done(&if fine { format!("{} done", amount::human(share.done)) } else { "stopped".to_owned() });
            }
        }
    }
}

/// What a `taskfilesquery` reply means for a script.
pub fn generation_exit(r: &Reply) -> Exit {
    match r.status().as_str() {
        "finished" if r.ok => Exit::Ok,
        "unfinished" => Exit::NotFinished,
        _ => Exit::Refused,
    }
}

/// What an `uploadprogress` reply means for a script. `uploaded` is a step of one method only.
pub fn upload_exit(u: &Upload) -> Exit {
    match u.status.as_str() {
        "ready" | "finished" => Exit::Ok,
        "queues" | "uploading" | "uploaded" => Exit::NotFinished,
        _ => Exit::Refused,
    }
}

/// What a `progress` reply means for a script. A queued task answers with a refusal that carries its state.
pub fn download_exit(d: &Download) -> Exit {
    match d.status.as_str() {
        "downloaded" | "history" => Exit::Ok,
        "queues" | "downloading" => Exit::NotFinished,
        "" if d.desc.starts_with("task in queues") => Exit::NotFinished,
        _ => Exit::Refused,
    }
}
