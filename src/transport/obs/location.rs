//! Where objects are: an `obs://bucket/prefix` URL, an endpoint text and keys, parsed once into types.
//!
//! Three kinds of store share one protocol field, told apart by the endpoint's scheme: a plain host (or `https://host`)
//! speaks OBS with its own signature, `s3+https://` any S3 store, `file:///dir` is a directory on this machine. The last
//! is accepted from the node's own configuration only: a task file must not make a node read or write local files.
//! Keys are never looked up in the environment and never left out: an unsigned request to a public bucket would look
//! like success.

use crate::error::Fault;
use crate::model::ids::RelPath;
use std::fmt;
use std::path::PathBuf;
use url::Url;

/// An access key and its secret. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(super) ak: String,
    pub(super) sk: String,
}

impl Credentials {
    fn parse(ak: &str, sk: &str) -> Result<Self, Fault> {
        let (ak, sk) = (ak.trim(), sk.trim());
        for (name, value) in [("access key (ak)", ak), ("secret key (sk)", sk)] {
            if value.is_empty() {
                return Err(Fault::permanent(format!(
                    "object storage: the {name} is empty; put it into the task or into this node's configuration"
                )));
            }
            if !value.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Fault::permanent(format!("object storage: the {name} has characters that no key has")));
            }
        }
        Ok(Self { ak: ak.into(), sk: sk.into() })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// Who gave the endpoint: decides whether a directory store is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointFrom {
    /// This node's own configuration.
    OwnConfig,
    /// A task file or a request.
    Outside,
}

/// The kind of store and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// Native OBS. Huawei's hosts carry the bucket in front (`bucket.obs.region...`) and sign for the bucket; any other
    /// host is a domain bound to the bucket and signs for itself.
    Obs { scheme: &'static str, host: String, keys: Credentials },
    /// Any S3 store. `authority` is host and port.
    S3 { scheme: &'static str, authority: String, region: String, virtual_host: bool, keys: Credentials },
    /// `obs://bucket/key` is `root/bucket/key`.
    Directory { root: PathBuf },
}

/// A bucket (or its stand-in) and the prefix below which one package's objects lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObsLocation {
    pub(super) bucket: String,
    /// Without slashes at the ends; empty at the bucket's root.
    pub(super) prefix: String,
    pub(super) store: Store,
    /// Where the keys stand, for messages.
    pub(super) keys_in: &'static str,
}

impl ObsLocation {
    /// From the texts of a task file or the configuration. Keys are not needed (and ignored) for a directory store.
    pub fn parse(url: &str, endpoint: &str, ak: &str, sk: &str, from: EndpointFrom) -> Result<Self, Fault> {
        let (bucket, prefix) = parse_url(url.trim())?;
        let endpoint = endpoint.trim();
        if endpoint.is_empty() {
            return Err(Fault::permanent(
                "object storage: the endpoint is empty; put it into the task or into this node's configuration",
            ));
        }
        let store = match endpoint.split_once("://") {
            None => native("https", endpoint, ak, sk)?,
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "https" => native("https", rest, ak, sk)?,
                "http" => native("http", rest, ak, sk)?,
                "s3+https" => s3("https", rest, ak, sk)?,
                "s3+http" => s3("http", rest, ak, sk)?,
                "file" if from == EndpointFrom::OwnConfig => directory(endpoint)?,
                "file" => {
                    return Err(Fault::permanent(
                        "object storage: an endpoint file:// is accepted from this node's own configuration only",
                    ));
                }
                _ => {
                    return Err(bad_endpoint(
                        endpoint,
                        "it starts with none of https://, http://, s3+https://, s3+http://, file://",
                    ));
                }
            },
        };
        let keys_in = match from {
            EndpointFrom::OwnConfig => Self::OWN_KEYS,
            EndpointFrom::Outside => "in the task file",
        };
        Ok(Self { bucket, prefix, store, keys_in })
    }

    const OWN_KEYS: &str = "in this node's configuration";

    /// The keys are this node's, whoever named the endpoint: said when the store refuses them.
    pub fn with_own_keys(mut self) -> Self {
        self.keys_in = Self::OWN_KEYS;
        self
    }

    /// For messages: `obs://bucket/prefix`.
    pub fn url(&self) -> String {
        format!("obs://{}/{}", self.bucket, self.prefix)
    }

    /// The object (or file below the bucket) that holds a whole package file.
    pub(super) fn key(&self, path: &RelPath) -> String {
        if self.prefix.is_empty() { path.to_string() } else { format!("{}/{path}", self.prefix) }
    }

    /// The same store, bucket and endpoint: notes of an upload to another place must not be taken for this one's.
    pub(super) fn place(&self) -> String {
        match &self.store {
            Store::Obs { host, .. } => format!("{host}/{}", self.bucket),
            Store::S3 { authority, .. } => format!("s3:{authority}/{}", self.bucket),
            Store::Directory { root } => format!("file:{}/{}", root.display(), self.bucket),
        }
    }

    /// The bucket of an upload's note, where it is at the same host.
    pub(super) fn beside(&self, place: &str) -> Option<Self> {
        let (host, bucket) = place.rsplit_once('/')?;
        let same = match &self.store {
            Store::Obs { host: own, .. } => host == own,
            Store::S3 { authority, .. } => host.strip_prefix("s3:") == Some(authority),
            Store::Directory { .. } => false,
        };
        let (bucket, _) = parse_url(&format!("obs://{bucket}")).ok()?;
        same.then(|| Self { bucket, ..self.clone() })
    }
}

fn bad_endpoint(endpoint: &str, rule: &str) -> Fault {
    // Someone may have put keys into the authority: show what stands behind the last '@' only.
    let shown: String = endpoint.rsplit('@').next().unwrap_or_default().chars().take(120).collect();
    Fault::permanent(format!("object storage: bad endpoint {shown:?}: {rule}"))
}

fn parse_url(url: &str) -> Result<(String, String), Fault> {
    let shown: String = url.chars().take(200).collect();
    let bad = |rule: &str| Fault::permanent(format!("object storage: bad URL {shown:?}: {rule}"));
    let rest = url.strip_prefix("obs://").ok_or_else(|| bad("it must look like obs://bucket/path"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = bucket.as_bytes();
    if !(3..=63).contains(&bytes.len())
        || !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        || !edge(bytes.first().copied())
        || !edge(bytes.last().copied())
        || bucket.contains("..")
    {
        return Err(bad("a bucket has 3 to 63 lower-case letters, digits, '-' and '.', with a letter or digit at both ends"));
    }
    let prefix = prefix.trim_end_matches('/');
    if !prefix.is_empty() {
        RelPath::parse(prefix).map_err(|e| bad(e.rule))?;
    }
    Ok((bucket.to_owned(), prefix.to_owned()))
}

/// A host name (letters, digits, '-', '.'), lower case.
fn host_name(endpoint: &str, host: &str) -> Result<String, Fault> {
    let ok = !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    if ok {
        Ok(host.to_ascii_lowercase())
    } else {
        Err(bad_endpoint(endpoint, "it must be a host name without path, user or spaces"))
    }
}

fn native(scheme: &'static str, text: &str, ak: &str, sk: &str) -> Result<Store, Fault> {
    let host = text.trim_end_matches('/');
    let host = host.strip_suffix(if scheme == "http" { ":80" } else { ":443" }).unwrap_or(host);
    if host.contains(':') {
        return Err(bad_endpoint(text, "an OBS host has no port; for another S3 store write s3+https://host:port"));
    }
    Ok(Store::Obs { scheme, host: host_name(text, host)?, keys: Credentials::parse(ak, sk)? })
}

/// Huawei's own hosts, by the rule that the storage library uses too.
pub(super) fn is_huawei(host: &str) -> bool {
    host.starts_with("obs.") && (host.ends_with(".myhuaweicloud.com") || host.ends_with(".huawei.com"))
}

/// `?region=` says the region; else the host does where it is a well-known one; else `us-east-1`, as most stores expect.
fn s3(scheme: &'static str, text: &str, ak: &str, sk: &str) -> Result<Store, Fault> {
    let url = Url::parse(&format!("{scheme}://{text}")).map_err(|_| bad_endpoint(text, "it is not a host"))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    if host.is_empty() || !url.username().is_empty() || url.password().is_some() || url.path() != "/" {
        return Err(bad_endpoint(text, "it must be a host, with a port where needed, without path or user"));
    }
    let cloud = host.ends_with(".amazonaws.com") || host.ends_with(".myhuaweicloud.com");
    let asked = url.query_pairs().find(|(k, _)| k == "region").map(|(_, v)| v.into_owned());
    let from_host = || cloud.then(|| host.split('.').nth(1)).flatten().filter(|r| *r != "amazonaws").map(str::to_owned);
    let region = asked.or_else(from_host).unwrap_or_else(|| "us-east-1".into());
    if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(bad_endpoint(text, "the region has characters that no region has"));
    }
    let authority = url.port().map_or_else(|| host.clone(), |p| format!("{host}:{p}"));
    Ok(Store::S3 { scheme, authority, region, virtual_host: cloud, keys: Credentials::parse(ak, sk)? })
}

fn directory(endpoint: &str) -> Result<Store, Fault> {
    let root = Url::parse(endpoint)
        .ok()
        .and_then(|u| u.to_file_path().ok())
        .ok_or_else(|| bad_endpoint(endpoint, "it must look like file:///directory"))?;
    Ok(Store::Directory { root })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, endpoint: &str) -> Result<ObsLocation, Fault> {
        ObsLocation::parse(url, endpoint, "EXAMPLE-AK", "EXAMPLE-SK", EndpointFrom::Outside)
    }

    #[test]
    fn endpoints_name_their_kind_of_store() {
        for (endpoint, scheme) in
            [("obs.example.com", "https"), ("https://OBS.example.com/", "https"), ("http://obs.example.com", "http")]
        {
            match parse("obs://cfec-001/dcps/film/", endpoint).unwrap().store {
                Store::Obs { scheme: s, host, .. } => assert_eq!((s, host.as_str()), (scheme, "obs.example.com")),
                other => panic!("{other:?}"),
            }
        }
        match parse("obs://cfec-001/x", "s3+http://127.0.0.1:9000?region=here").unwrap().store {
            Store::S3 { scheme, authority, region, virtual_host, .. } => {
                assert_eq!(
                    (scheme, authority.as_str(), region.as_str(), virtual_host),
                    ("http", "127.0.0.1:9000", "here", false)
                );
            }
            other => panic!("{other:?}"),
        }
        match parse("obs://cfec-001/x", "s3+https://obs.cn-north-4.myhuaweicloud.com").unwrap().store {
            Store::S3 { region, virtual_host, .. } => assert_eq!((region.as_str(), virtual_host), ("cn-north-4", true)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_task_cannot_name_a_directory() {
        let fault = parse("obs://cfec-001/x", "file:///etc").unwrap_err();
        assert!(fault.message.contains("own configuration"), "{fault}");
        let own = ObsLocation::parse("obs://cfec-001/x", "file:///srv/obs", "", "", EndpointFrom::OwnConfig).unwrap();
        assert_eq!(own.store, Store::Directory { root: "/srv/obs".into() });
    }

    #[test]
    fn hostile_texts_are_refused() {
        for url in [
            "",
            "http://b/x",
            "obs://",
            "obs://ab/x",
            "obs://a..b/x",
            "obs://../x",
            "obs://UP-1/x",
            "obs://cfec-001/../x",
            "obs://cfec-001/a//b",
            "obs://cfec-001//a",
            "obs://cfec_001/x",
        ] {
            assert!(parse(url, "obs.example.com").is_err(), "{url:?} was accepted");
        }
        for endpoint in [
            "",
            "ftp://x",
            "obs.example.com/path",
            "user:pw@obs.example.com",
            "obs.example.com:99",
            "a b",
            "s3+http://u:p@h",
            "s3+http://h/p",
            "file:relative",
            "http://",
        ] {
            let fault = parse("obs://cfec-001/x", endpoint).expect_err(endpoint);
            assert!(!fault.message.contains("pw"), "{fault}");
        }
    }

    #[test]
    fn keys_are_needed_and_never_shown() {
        for (ak, sk) in [("", "EXAMPLE-SK"), ("EXAMPLE-AK", " "), ("EXAMPLE-AK", "a\nb")] {
            for endpoint in ["obs.example.com", "s3+https://s3.example.com"] {
                let fault = ObsLocation::parse("obs://cfec-001/x", endpoint, ak, sk, EndpointFrom::OwnConfig).unwrap_err();
                assert!(fault.message.contains("key"), "{fault}");
            }
        }
        let shown = format!("{:?}", parse("obs://cfec-001/x", "obs.example.com").unwrap());
        assert!(!shown.contains("EXAMPLE-AK") && !shown.contains("EXAMPLE-SK"), "{shown}");
    }
}
