//! Addresses from outside: what a task file or a request may point a node at.
//!
//! A task file travels through other hands, so its addresses are checked by kind: trackers are http(s) or udp, CDN and
//! torrent URLs http(s), object stores hosts. Nothing in it can name a local file: `file:` stores come from the node's
//! own configuration alone ([`ObsEndpoint::parse_own`]). User names inside URLs are refused: they would end up in logs.

use super::ids::RelPath;
use std::fmt;
use std::path::PathBuf;
use url::Url;

/// Longer addresses are a mistake or an attack.
const MAX_LEN: usize = 2048;

pub const HTTP_ALLOWED: &str = "an http:// or https:// URL without user name";
pub const TRACKER_ALLOWED: &str = "an http://, https:// or udp:// announce URL without user name";
pub const OBS_URL_ALLOWED: &str = "obs://bucket/key";
pub const OBS_BASE_ALLOWED: &str = "obs://bucket";
pub const OBS_ENDPOINT_ALLOWED: &str = "empty, host[:port], http(s)://host[:port] or s3+http(s)://host[:port]";
pub const OBS_OWN_ALLOWED: &str =
    "empty, host[:port], http(s)://host[:port], s3+http(s)://host[:port] or file:///absolute/directory";
pub const PEER_ALLOWED: &str = "host:port";

/// A URL fit for messages: no query (it may be signed) and no user name.
pub fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or("");
    let plain = match plain.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or("");
            match authority.rfind('@') {
                Some(at) => format!("{scheme}://***@{}", &rest[at + 1..]),
                None => plain.to_owned(),
            }
        }
        None => plain.to_owned(),
    };
    plain.chars().take(200).collect()
}

/// The URL parser drops tabs and line breaks silently; such text must not reach logs or headers.
fn is_clean(s: &str) -> bool {
    s.len() <= MAX_LEN && !s.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn parse_url(s: &str, schemes: &[&str]) -> Option<Url> {
    // The parser forgives `http:/x` and `http:///x` and would take the path for a host.
    let has_authority = s.split_once("://").is_some_and(|(_, rest)| !rest.starts_with('/'));
    if !has_authority || !is_clean(s) || s.contains('\\') {
        return None;
    }
    let url = Url::parse(s).ok()?;
    let fits = schemes.contains(&url.scheme())
        && url.host_str().is_some_and(|h| !h.is_empty())
        && url.username().is_empty()
        && url.password().is_none();
    fits.then_some(url)
}

/// An http(s) URL; a `/` at the end is dropped, the text is otherwise kept.
pub fn http_url(s: &str) -> Option<String> {
    let s = s.trim();
    parse_url(s, &["http", "https"])?;
    Some(if s.contains('?') { s } else { s.trim_end_matches('/') }.to_owned())
}

/// An announce URL.
pub fn tracker_url(s: &str) -> Option<String> {
    let s = s.trim();
    let url = parse_url(s, &["http", "https", "udp"])?;
    (url.scheme() != "udp" || url.port().is_some()).then(|| s.to_owned())
}

/// `host:port` (`[v6]:port`) of a BitTorrent peer.
pub fn peer(s: &str) -> Option<String> {
    let s = s.trim();
    let (host, port) = s.rsplit_once(':')?;
    let port_fits = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0);
    (is_clean(s) && port_fits && is_host(host)).then(|| s.to_owned())
}

/// A DNS name or an address; IPv6 in brackets.
fn is_host(host: &str) -> bool {
    if host.is_empty() || host.len() > 253 || host.starts_with('-') {
        return false;
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_') && url::Host::parse(host).is_ok()
}

/// `obs://bucket/key`: key parts are plain names, because a directory store makes paths of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObsUrl {
    bucket: String,
    key: Option<RelPath>,
}

impl ObsUrl {
    /// With or without a key; a `/` at the end is dropped.
    pub fn parse(s: &str) -> Option<Self> {
        let rest = s.trim().strip_prefix("obs://")?.trim_end_matches('/');
        let (bucket, key) = match rest.split_once('/') {
            Some((b, k)) => (b, Some(RelPath::parse(k).ok()?)),
            None => (rest, None),
        };
        let fits = (1..=63).contains(&bucket.len())
            && bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
            && bucket.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        fits.then(|| Self { bucket: bucket.to_owned(), key })
    }
    /// Only with a key, as a task names its package.
    pub fn parse_with_key(s: &str) -> Option<Self> {
        Self::parse(s).filter(|u| u.key.is_some())
    }
    pub fn bucket(&self) -> &str {
        &self.bucket
    }
    pub fn key(&self) -> Option<&RelPath> {
        self.key.as_ref()
    }
}

impl fmt::Display for ObsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "obs://{}/{key}", self.bucket),
            None => write!(f, "obs://{}", self.bucket),
        }
    }
}

/// Where an object store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObsStore {
    /// The OBS dialect; `https://host[:port]` without a path.
    Obs(String),
    /// The S3 dialect; `http(s)://host[:port]` without a path.
    S3(String),
    /// A directory that plays object store: `obs://bucket/key` is `dir/bucket/key`.
    Dir(PathBuf),
}

/// An endpoint as it was written, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObsEndpoint {
    text: String,
    store: ObsStore,
}

impl ObsEndpoint {
    /// From a task file or a request: never a directory.
    pub fn parse(s: &str) -> Option<Self> {
        let text = s.trim().trim_end_matches('/');
        let store = if let Some(rest) = text.strip_prefix("s3+") {
            ObsStore::S3(origin(rest)?)
        } else if text.contains("://") {
            ObsStore::Obs(origin(text)?)
        } else {
            ObsStore::Obs(origin(&format!("https://{text}"))?)
        };
        Some(Self { text: text.to_owned(), store })
    }

    /// From the node's own configuration: also `file:///absolute/directory`.
    pub fn parse_own(s: &str) -> Option<Self> {
        let text = s.trim();
        match text.strip_prefix("file://") {
            None => Self::parse(text),
            Some(path) => {
                let path = Url::parse(text).ok().filter(|_| path.starts_with('/') && is_clean(text))?.to_file_path().ok()?;
                Some(Self { text: text.to_owned(), store: ObsStore::Dir(path) })
            }
        }
    }

    pub fn store(&self) -> &ObsStore {
        &self.store
    }
    /// As it was written: `obs.example.com` stays without a scheme.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// `http(s)://host[:port]` and nothing after it.
fn origin(s: &str) -> Option<String> {
    let url = parse_url(s, &["http", "https"])?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && !s.ends_with('/');
    bare.then(|| url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_by_kind() {
        for good in ["http://192.0.2.10/dcp/x.torrent", "https://cdn.example.com/dcp/a/", "http://cdn.example.com/x?sig=a"] {
            assert!(http_url(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "file:///etc/passwd",
            "ftp://example.com/x",
            "http://",
            "http:///etc/passwd",
            "http:/etc/passwd",
            "/etc/passwd",
            "http://user:pw@example.com/",
            "http://exa mple.com/",
            "http://example.com/\nx",
            "http:\\\\example.com",
            "javascript:alert(1)",
        ] {
            assert!(http_url(bad).is_none(), "{bad:?}");
        }
        assert_eq!(http_url("http://cdn.example.com/").unwrap(), "http://cdn.example.com");
        assert!(tracker_url("udp://tracker.example.com:6969").is_some());
        assert!(tracker_url("udp://tracker.example.com").is_none());
        assert!(tracker_url("http://tracker.example.com:6969/announce").is_some());
        assert!(tracker_url("file:///x").is_none());
    }

    #[test]
    fn peers() {
        for good in ["192.0.2.1:26881", "seed.example.com:80", "[2001:db8::1]:6881"] {
            assert!(peer(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "seed.example.com",
            "seed.example.com:0",
            "seed:99999",
            ":80",
            "a b:80",
            "http://x:80",
            "[::1:80",
            "-x:80",
            "x:+80",
        ] {
            assert!(peer(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn object_urls() {
        let u = ObsUrl::parse("obs://cfec-001/dcps/xiaofang/").unwrap();
        assert_eq!((u.bucket(), u.key().map(RelPath::as_str)), ("cfec-001", Some("dcps/xiaofang")));
        assert_eq!(u.to_string(), "obs://cfec-001/dcps/xiaofang");
        assert!(ObsUrl::parse("obs://cfec-001").is_some_and(|u| u.key().is_none()));
        for bad in [
            "",
            "obs://",
            "obs:///x",
            "obs://../x",
            "obs://a/../b",
            "obs://.a/b",
            "obs://a//b",
            "s3://a/b",
            "file:///a",
            "obs://a b/c",
        ] {
            assert!(ObsUrl::parse(bad).is_none(), "{bad}");
        }
        assert!(ObsUrl::parse_with_key("obs://cfec-001/").is_none());
    }

    #[test]
    fn endpoints() {
        for (text, store) in [
            ("obs.example.com", ObsStore::Obs("https://obs.example.com".into())),
            ("obs.example.com:8443", ObsStore::Obs("https://obs.example.com:8443".into())),
            ("http://127.0.0.1:9000/", ObsStore::Obs("http://127.0.0.1:9000".into())),
            ("s3+https://s3.example.com", ObsStore::S3("https://s3.example.com".into())),
        ] {
            assert_eq!(ObsEndpoint::parse(text).unwrap().store(), &store, "{text}");
            assert_eq!(ObsEndpoint::parse_own(text).unwrap().store(), &store, "{text}");
        }
        for bad in [
            "",
            "file:///tmp",
            "FILE:///tmp",
            "s3+file:///tmp",
            "https://obs.example.com/bucket",
            "/tmp",
            "../x",
            "a@b",
            "https://k:s@obs.example.com",
            "obs.example.com?x",
        ] {
            assert!(ObsEndpoint::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(ObsEndpoint::parse_own("file:///srv/store").unwrap().store(), &ObsStore::Dir("/srv/store".into()));
        for bad in ["file://host/srv", "file:srv", "file://"] {
            assert!(ObsEndpoint::parse_own(bad).is_none(), "{bad}");
        }
        assert_eq!(ObsEndpoint::parse("obs.example.com").unwrap().as_str(), "obs.example.com");
    }

    #[test]
    fn shown_urls_hold_no_secrets() {
        assert_eq!(shown("https://cdn.example.com/a?sig=EXAMPLE-SK"), "https://cdn.example.com/a");
        assert_eq!(shown("https://u:p@cdn.example.com/a@b"), "https://***@cdn.example.com/a@b");
    }

    proptest! {
        #[test]
        fn no_text_becomes_a_directory(text in "(file|FILE|s3\\+file|http|s3\\+http)?:?/{0,3}[a-z./@:\\\\?#%]{0,20}") {
            if let Some(e) = ObsEndpoint::parse(&text) {
                prop_assert!(!matches!(e.store(), ObsStore::Dir(_)));
            }
            let _ = (shown(&text), http_url(&text), peer(&text), ObsUrl::parse(&text));
        }
    }
}
