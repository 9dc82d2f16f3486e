//! The keys of `config.json`: names, other spellings, defaults, what is allowed.

use super::{Config, ConfigError, LOWEST_BT_RATE, LogLevel, MachineType, OutsideRate, StorePlan, WatchMethod};
use crate::model::endpoint::{self, ObsEndpoint, ObsUrl};
use crate::model::ids::BaseSubdir;
use crate::model::json::{as_bool, as_number, as_text, parse_config};
use crate::model::ratio::{self, Ratio};
use crate::model::secret::Secret;
use crate::model::task::{NodeType, Policy};
use crate::model::window::{self, Windows};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

type Result<T> = std::result::Result<T, ConfigError>;

/// Ten years: beyond it a duration is a mistake.
const MAX_HOURS: u64 = 87_600;
const ADDRESS: &str = "ip:port, e.g. 127.0.0.1:8191";

fn bad(key: &str, value: impl AsRef<str>, allowed: impl Into<String>) -> ConfigError {
    let value = value.as_ref().chars().take(120).collect();
    ConfigError::Bad { key: key.to_owned(), value, allowed: allowed.into().trim_end().to_owned() }
}

/// Takes known keys out; what is left at the end is unknown.
struct Keys(Map<String, Value>);

impl Keys {
    /// Null and the empty text count as not set.
    fn take(&mut self, spellings: &[&str]) -> Option<Value> {
        let mut found = None;
        for s in spellings {
            let value = self.0.shift_remove(*s).filter(|v| !v.is_null() && v.as_str().is_none_or(|t| !t.trim().is_empty()));
            found = found.or(value);
        }
        found
    }

    fn text(&mut self, spellings: &[&str]) -> Result<Option<String>> {
        let Some(v) = self.take(spellings) else { return Ok(None) };
        let text = as_text(&v).map(|t| t.trim().to_owned());
        let fits = text.as_ref().is_some_and(|t| t.len() <= 4096 && !t.chars().any(char::is_control));
        // The value is not shown: it may be a secret.
        text.filter(|_| fits).map(Some).ok_or_else(|| bad(spellings[0], "***", "one line of text"))
    }

    fn parsed<T>(&mut self, spellings: &[&str], allowed: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = self.text(spellings)? else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| bad(spellings[0], endpoint::shown(&text), allowed.trim()))
    }

    fn note(&mut self, key: &str) -> Result<String> {
        Ok(self.text(&[key])?.unwrap_or_default())
    }

    fn secret(&mut self, key: &str) -> Result<Secret> {
        Ok(Secret::new(self.note(key)?))
    }

    fn flag(&mut self, key: &str, default: bool) -> Result<bool> {
        let Some(v) = self.take(&[key]) else { return Ok(default) };
        as_bool(&v).ok_or_else(|| bad(key, as_text(&v).unwrap_or_default(), "true or false"))
    }

    fn number(&mut self, key: &str, default: u64, least: u64, most: u64) -> Result<u64> {
        let Some(v) = self.take(&[key]) else { return Ok(default) };
        let fits = as_number(&v).filter(|n| (least..=most).contains(n));
        fits.ok_or_else(|| bad(key, as_text(&v).unwrap_or_default(), format!("a whole number from {least} to {most}")))
    }

    fn path(&mut self, key: &str, default: impl Into<PathBuf>) -> Result<PathBuf> {
        let absolute = |s: &str| {
            let path = PathBuf::from(if s == "/" { s } else { s.trim_end_matches('/') });
            let climbs = path.components().any(|c| c == std::path::Component::ParentDir);
            (path.is_absolute() && !climbs).then_some(path)
        };
        Ok(self.parsed(&[key], "an absolute path without '..'", absolute)?.unwrap_or(default.into()))
    }

    fn url(&mut self, spellings: &[&str]) -> Result<Option<String>> {
        self.parsed(spellings, endpoint::HTTP_ALLOWED, endpoint::http_url)
    }

    fn windows(&mut self, key: &str, default: &str) -> Result<Windows> {
        let given = self.parsed(&[key], window::ALLOWED, |s| Windows::parse(s).ok())?;
        Ok(given.or_else(|| Windows::parse(default).ok()).unwrap_or_else(Windows::all_day))
    }

    fn rate(&mut self, key: &str) -> Result<Option<u64>> {
        let allowed = "bytes per second as a number, or with K, M or G (1024), e.g. 20M; 0 or empty for no cap";
        Ok(self.parsed(&[key], allowed, parse_rate)?.filter(|n| *n > 0))
    }

    /// Not set is as inside; 0 is no cap.
    fn rate_outside(&mut self, key: &str) -> Result<OutsideRate> {
        let allowed =
            "bytes per second as a number, or with K, M or G (1024), e.g. 2M; 0 for no cap, empty for the same as inside";
        let given = self.parsed(&[key], allowed, parse_rate)?;
        Ok(given.map_or(OutsideRate::Same, |n| OutsideRate::Other(Some(n).filter(|n| *n > 0))))
    }

    fn address(&mut self, key: &str) -> Result<Option<SocketAddr>> {
        self.parsed(&[key], ADDRESS, parse_address)
    }

    /// An address with a default, which an explicit empty text turns off.
    fn address_or_off(&mut self, key: &str, default: SocketAddr) -> Result<Option<SocketAddr>> {
        match self.0.get(key).and_then(Value::as_str) {
            Some(text) if text.trim().is_empty() => {
                self.0.shift_remove(key);
                Ok(None)
            }
            _ => Ok(Some(self.address(key)?.unwrap_or(default))),
        }
    }

    /// A list of peers, as an array or as text with commas.
    fn peers(&mut self, key: &str) -> Result<Vec<String>> {
        let texts: Vec<String> = match self.take(&[key]) {
            None => Vec::new(),
            Some(Value::Array(a)) => a.iter().map(|v| as_text(v).unwrap_or_else(|| v.to_string())).collect(),
            Some(v) => as_text(&v).unwrap_or_else(|| v.to_string()).split(',').map(str::to_owned).collect(),
        };
        let given = texts.iter().map(|t| t.trim()).filter(|t| !t.is_empty());
        given.map(|t| endpoint::peer(t).ok_or_else(|| bad(key, t, "a list of host:port"))).collect()
    }
}

/// `20M`, `1.5G`, `500`: bytes per second, units of 1024.
fn parse_rate(s: &str) -> Option<u64> {
    let s = s.trim().trim_end_matches("/s").trim_end_matches(['b', 'B']).trim_end();
    let (digits, shift) = match s.char_indices().next_back()? {
        (at, 'k' | 'K') => (&s[..at], 10),
        (at, 'm' | 'M') => (&s[..at], 20),
        (at, 'g' | 'G') => (&s[..at], 30),
        _ => (s, 0),
    };
    let digits = digits.trim_end();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // A petabyte per second is no cap but a mistake.
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|n| *n <= 1 << 50)
}

fn parse_address(s: &str) -> Option<SocketAddr> {
    match s.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.parse().ok()?)),
        None => s.parse().ok(),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

pub(super) fn parse(text: &[u8]) -> Result<(Config, Vec<String>)> {
    let Value::Object(map) = parse_config(text)? else {
        return Err(bad("(the file)", "something else", "an object"));
    };
    let mut k = Keys(map);
    let datadir = k.path("datadir", "/data")?;
    let id = |s: &str| (s.len() <= 64 && s.bytes().all(|b| b.is_ascii_alphanumeric())).then(|| s.to_owned());
    let one_one_one = Ratio::new(1, 1, 1).map_err(|e| bad("bt-obs-cdn", e.value, ratio::ALLOWED))?;
    let config = Config {
        servertype: k
            .parsed(&["servertype", "Servertype"], NodeType::ALLOWED, NodeType::parse)?
            .ok_or_else(|| bad("servertype", "", NodeType::ALLOWED.trim()))?,
        machinetype: k.parsed(&["machinetype"], MachineType::ALLOWED, MachineType::parse)?.unwrap_or(MachineType::Local),
        receiverid: k.note("receiverid")?,
        vip: k.note("vip")?,
        basedatapath: k.path("basedatapath", datadir.join("dcp"))?,
        basesubdir: k
            .parsed(&["basesubdir"], "letters, digits, '-', '_' and '.', e.g. cfec-001", |s| BaseSubdir::parse(s).ok())?,
        avoidrepeat: k.flag("avoidrepeat", true)?,
        ctcs: k.text(&["ctcs"])?.unwrap_or_else(|| "localhost:2780".into()),
        senderid: k.parsed(&["senderid"], "letters and digits", id)?.unwrap_or_default(),
        senderdomain: k.url(&["senderdomain", "senddomain"])?,
        ratio: k.parsed(&["bt-obs-cdn"], ratio::ALLOWED, |s| Ratio::parse(s).ok())?.unwrap_or(one_one_one),
        policy: k.parsed(&["priorpolicy", "prior"], Policy::ALLOWED, Policy::parse)?.unwrap_or(Policy::Fulltime),
        tracker: k.parsed(&["tracker"], endpoint::TRACKER_ALLOWED, endpoint::tracker_url)?,
        defaultseedtime_hours: k.number("defaultseedtime", 72, 0, MAX_HOURS)?,
        obsurl: k.parsed(&["obsurl"], endpoint::OBS_BASE_ALLOWED, ObsUrl::parse)?,
        cdnurl: k.url(&["cdnurl"])?,
        bttime: k.windows("bttime", "00:00-23:59")?,
        obstime: k.windows("obstime", "00:00-08:00")?,
        cdntime: k.windows("cdntime", "08:00-18:00")?,
        ctfilesorder: k.flag("ctfilesorder", true)?,
        obsak: k.secret("obsak")?,
        obssk: k.secret("obssk")?,
        obsendpoint: k.parsed(&["obsendpoint"], endpoint::OBS_OWN_ALLOWED, ObsEndpoint::parse_own)?,
        datasource: k
            .parsed(&["datasource"], Config::DATASOURCES, |s| Config::is_datasource(s).then(|| s.to_owned()))?
            .unwrap_or_else(|| "local".into()),
        receiverstoreplan: k
            .parsed(&["receiverstoreplan"], StorePlan::ALLOWED, |s| StorePlan::parse(&s.to_ascii_uppercase()))?
            .unwrap_or(StorePlan::A),
        uploadingnum: k.number("uploadingnum", 5, 1, 1000)? as usize,
        downloadingnum: k.number("downloadingnum", 5, 1, 1000)? as usize,
        hashtable: k.path("hashtable", "/etc/bft2/hashtable.txt")?,
        listen: k.address("listen")?.unwrap_or(loopback(8191)),
        console: k.address_or_off("console", loopback(2780))?,
        token: k.secret("token")?,
        datadir,
        database: k.path("database", "/var/lib/bft2/bft2.db")?,
        logdir: k.path("logdir", "/var/log/bft2")?,
        btlisten: k.address("btlisten")?.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 26881)),
        btpeers: k.peers("btpeers")?,
        trackerlisten: k.address("trackerlisten")?,
        weblisten: k.address("weblisten")?,
        btrate: k.rate("btrate")?,
        obsrate: k.rate("obsrate")?,
        cdnrate: k.rate("cdnrate")?,
        btuprate: k.rate("btuprate")?,
        btrateoutside: k.rate_outside("btrateoutside")?,
        obsrateoutside: k.rate_outside("obsrateoutside")?,
        cdnrateoutside: k.rate_outside("cdnrateoutside")?,
        btuprateoutside: k.rate_outside("btuprateoutside")?,
        splitfiles: k.flag("splitfiles", false)?,
        retries: k.number("retries", 5, 0, 1000)? as u32,
        retrydelay: Duration::from_secs(k.number("retrydelay", 300, 0, 86_400)?),
        receiverseed: k.flag("receiverseed", true)?,
        uploadpriortime: k.flag("uploadpriortime", false)?,
        webhook: k.url(&["webhook"])?.map(Secret::new),
        keeppartial: k.flag("keeppartial", false)?,
        eventdays: k.number("eventdays", 90, 1, 36_500)? as u32,
        historydays: k.number("historydays", 365, 1, 36_500)? as u32,
        sampledays: k.number("sampledays", 30, 1, 36_500)? as u32,
        finedays: k.number("finedays", 1, 1, 36_500)? as u32,
        minutedays: k.number("minutedays", 7, 1, 36_500)? as u32,
        loglevel: k
            .parsed(&["loglevel"], LogLevel::ALLOWED, |s| LogLevel::parse(&s.to_ascii_lowercase()))?
            .unwrap_or(LogLevel::Info),
        stoptimeout: Duration::from_secs(k.number("stoptimeout", 20, 1, 3600)?),
        settle: Duration::from_secs(k.number("settle", 2, 0, 3600)?),
        watch: k
            .parsed(&["watch"], WatchMethod::ALLOWED, |s| WatchMethod::parse(&s.to_ascii_lowercase()))?
            .unwrap_or(WatchMethod::Auto),
    };
    needs_token(&config)?;
    let unknown = k.0.keys().map(|key| format!("unknown configuration key {key:?} is ignored"));
    let warnings = unknown.chain(low_rates(&config)).collect();
    Ok((config, warnings))
}

/// Caps that BitTorrent cannot keep. No errors: a node that had one must start.
fn low_rates(c: &Config) -> impl Iterator<Item = String> {
    let other = |rate| if let OutsideRate::Other(cap) = rate { cap } else { None };
    let caps = [
        ("btrate", c.btrate),
        ("btuprate", c.btuprate),
        ("btrateoutside", other(c.btrateoutside)),
        ("btuprateoutside", other(c.btuprateoutside)),
    ];
    let low = caps.into_iter().filter(|(_, cap)| cap.is_some_and(|n| n < LOWEST_BT_RATE.into()));
    low.map(|(key, cap)| {
        let given = cap.unwrap_or_default();
        format!("{key}: {given} bytes per second is less than BitTorrent can be held to: it counts as 16K ({LOWEST_BT_RATE})")
    })
}

/// Whoever reaches the API can send and delete: beyond this machine that takes a token.
fn needs_token(c: &Config) -> Result<()> {
    if c.token.is_empty() {
        for (key, at) in [("listen", Some(c.listen)), ("console", c.console)] {
            if let Some(at) = at.filter(|a| !a.ip().is_loopback()) {
                return Err(bad(key, at.to_string(), "a loopback address, or any address when token is set"));
            }
        }
    }
    Ok(())
}

pub(super) fn masked(c: &Config) -> Value {
    let path = |p: &PathBuf| p.display().to_string();
    let address = |a: &Option<SocketAddr>| a.map_or_else(String::new, |a| a.to_string());
    let outside = |rate| match rate {
        OutsideRate::Same => json!(""),
        OutsideRate::Other(cap) => json!(cap.unwrap_or(0)),
    };
    let protocol = json!({
        "servertype": c.servertype.as_str(),
        "machinetype": c.machinetype.as_str(),
        "receiverid": c.receiverid,
        "vip": c.vip,
        "basedatapath": path(&c.basedatapath),
        "basesubdir": c.basesubdir.as_ref().map_or("", |b| b.as_str()),
        "avoidrepeat": c.avoidrepeat,
        "ctcs": c.ctcs,
        "senderid": c.senderid,
        "senderdomain": endpoint::shown(c.senderdomain.as_deref().unwrap_or("")),
        "bt-obs-cdn": c.ratio.to_string(),
        "priorpolicy": c.policy.as_str(),
        "tracker": endpoint::shown(c.tracker.as_deref().unwrap_or("")),
        "defaultseedtime": c.defaultseedtime_hours.to_string(),
        "obsurl": c.obsurl.as_ref().map_or_else(String::new, ToString::to_string),
        "cdnurl": endpoint::shown(c.cdnurl.as_deref().unwrap_or("")),
        "bttime": c.bttime.to_string(),
        "obstime": c.obstime.to_string(),
        "cdntime": c.cdntime.to_string(),
        "ctfilesorder": c.ctfilesorder,
        "obsak": c.obsak.masked(),
        "obssk": c.obssk.masked(),
        "obsendpoint": c.obsendpoint.as_ref().map_or("", |e| e.as_str()),
        "datasource": c.datasource,
        "receiverstoreplan": c.receiverstoreplan.as_str(),
        "uploadingnum": c.uploadingnum,
        "downloadingnum": c.downloadingnum,
        "hashtable": path(&c.hashtable),
    });
    let ours = json!({
        "listen": c.listen.to_string(),
        "console": address(&c.console),
        "token": c.token.masked(),
        "datadir": path(&c.datadir),
        "database": path(&c.database),
        "logdir": path(&c.logdir),
        "btlisten": c.btlisten.to_string(),
        "btpeers": c.btpeers,
        "trackerlisten": address(&c.trackerlisten),
        "weblisten": address(&c.weblisten),
        "btrate": c.btrate.unwrap_or(0),
        "obsrate": c.obsrate.unwrap_or(0),
        "cdnrate": c.cdnrate.unwrap_or(0),
        "btuprate": c.btuprate.unwrap_or(0),
        "btrateoutside": outside(c.btrateoutside),
        "obsrateoutside": outside(c.obsrateoutside),
        "cdnrateoutside": outside(c.cdnrateoutside),
        "btuprateoutside": outside(c.btuprateoutside),
        "splitfiles": c.splitfiles,
        "retries": c.retries,
        "retrydelay": c.retrydelay.as_secs(),
        "receiverseed": c.receiverseed,
        "uploadpriortime": c.uploadpriortime,
        "webhook": c.webhook.as_ref().map_or("", Secret::masked),
        "keeppartial": c.keeppartial,
        "eventdays": c.eventdays,
        "historydays": c.historydays,
        "sampledays": c.sampledays,
        "finedays": c.finedays,
        "minutedays": c.minutedays,
        "loglevel": c.loglevel.as_str(),
        "stoptimeout": c.stoptimeout.as_secs(),
        "settle": c.settle.as_secs(),
        "watch": c.watch.as_str(),
    });
    let objects = [protocol, ours].into_iter().filter_map(|v| if let Value::Object(m) = v { Some(m) } else { None });
    Value::Object(objects.flatten().collect())
}
