//! What an HTTP answer to a range request claims, and whether it may be believed. Pure.

use crate::error::{Fault, FaultClass};
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::time::Duration;

/// What identifies the content behind a URL. Remembered between runs of a leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    /// Bytes.
    pub total: Option<u64>,
}

impl Entity {
    fn read(headers: &HeaderMap, total: Option<u64>) -> Self {
        let keep = |name| text(headers, name).map(str::to_owned);
        Self { etag: keep(header::ETAG), last_modified: keep(header::LAST_MODIFIED), total }
    }

    /// Whether both may be the same content. Only what both name is compared: edges of one CDN may leave a validator
    /// out, and mark an ETag as weak (`W/`) or not.
    pub fn agrees(&self, other: &Self) -> bool {
        fn same<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
            a.is_none() || b.is_none() || a == b
        }
        let strong = |e: &Option<String>| e.as_ref().map(|t| t.trim_start_matches("W/").to_owned());
        same(strong(&self.etag), strong(&other.etag))
            && same(self.last_modified.as_ref(), other.last_modified.as_ref())
            && same(self.total, other.total)
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Checks the answer to a GET of `range` of a file of `size` bytes. `url` is for the message only.
pub fn check(status: StatusCode, headers: &HeaderMap, range: &Range<u64>, size: u64, url: &str) -> Result<Entity, Fault> {
    if !status.is_success() {
        return Err(refusal(status, headers, url));
    }
    if let Some(coding) = text(headers, header::CONTENT_ENCODING).filter(|c| !c.eq_ignore_ascii_case("identity")) {
        let what = format!("{url} is sent as {coding:.20}: switch off compression of packages on the CDN");
        return Err(Fault::permanent(what));
    }
    let length = text(headers, header::CONTENT_LENGTH).and_then(|v| v.parse::<u64>().ok());
    let wanted = range.end - range.start;
    let total = match status {
        StatusCode::PARTIAL_CONTENT => {
            let (start, end, total) = text(headers, header::CONTENT_RANGE)
                .and_then(content_range)
                .ok_or_else(|| Fault::transient(format!("{url}: the server sent a part without saying which")))?;
            same_size(total, size, url)?;
            if (start, end) != (range.start, range.end) {
                let what = format!("{url}: asked for bytes {range:?}, the server sent {:?}", start..end);
                return Err(Fault::transient(what));
            }
            total
        }
        // A server that ignores Range sends everything: of use only if everything was asked for.
        StatusCode::OK if *range == (0..size) => {
            same_size(length, size, url)?;
            length
        }
        StatusCode::OK => {
            let what = format!("{url}: the server ignores Range and sends whole files only; enable byte ranges on the CDN");
            return Err(Fault::permanent(what));
        }
        other => return Err(Fault::permanent(format!("{url}: unexpected answer {other}"))),
    };
    if length.is_some_and(|l| l != wanted) {
        let what = format!("{url}: asked for {wanted} bytes, the server announces {}", length.unwrap_or(0));
        return Err(Fault::transient(what));
    }
    Ok(Entity::read(headers, total))
}

/// Another size is other content: no further request can mend that.
fn same_size(total: Option<u64>, size: u64, url: &str) -> Result<(), Fault> {
    match total {
        Some(total) if total != size => Err(Fault::corrupt(format!(
            "{url} has {total} bytes, the task lists {size}: the origin holds another version or the CDN a stale copy"
        ))),
        _ => Ok(()),
    }
}

/// `bytes 0-99/200` as (0, 100, Some(200)); `*` as total is unknown.
fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    Some((first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, total))
}

/// The fault behind a status that is not a success.
fn refusal(status: StatusCode, headers: &HeaderMap, url: &str) -> Fault {
    let class = match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => FaultClass::Transient,
        s if s.is_server_error() => FaultClass::Transient,
        _ => FaultClass::Permanent,
    };
    let hint = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => ": the file is not on the origin",
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => ": the CDN refuses access",
        StatusCode::RANGE_NOT_SATISFIABLE => ": the file on the origin is shorter than the task lists",
        _ => "",
    };
    let wait = text(headers, header::RETRY_AFTER).and_then(|v| retry_after(v, Utc::now()));
    Fault::new(class, format!("{url} answered {status}{hint}")).retry_after(wait)
}

/// No server is believed that it wants to be left alone for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Seconds or an HTTP date (RFC 9110 section 10.2.3), an hour at most.
fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let wait = match value.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = DateTime::parse_from_rfc2822(value.trim()).ok()?;
            (at.with_timezone(&Utc) - now).to_std().unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;

    const URL: &str = "http://cdn.example.com/a";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.clone(), v.parse().unwrap())).collect()
    }

    fn class(status: u16, range: Range<u64>, pairs: &[(HeaderName, &str)]) -> Result<Entity, FaultClass> {
        check(StatusCode::from_u16(status).unwrap(), &headers(pairs), &range, 100, URL).map_err(|f| f.class)
    }

    #[test]
    fn answers_are_believed_only_when_they_are_what_was_asked() {
        use FaultClass::*;
        use header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE};
        let part = |claim| class(206, 10..20, &[(CONTENT_RANGE, claim)]).map(|e| e.total);
        assert_eq!(part("bytes 10-19/100"), Ok(Some(100)));
        assert_eq!(part("bytes 10-19/*"), Ok(None));
        assert_eq!(part("bytes 10-18/100"), Err(Transient));
        assert_eq!(part("bytes 0-9/100"), Err(Transient));
        assert_eq!(part("bytes 10-19/101"), Err(Corrupt));
        assert_eq!(part("bytes 10-18446744073709551615/100"), Err(Transient));
        assert_eq!(part("nonsense"), Err(Transient));
        assert_eq!(class(206, 10..20, &[]), Err(Transient));
        assert_eq!(class(206, 10..20, &[(CONTENT_RANGE, "bytes 10-19/100"), (CONTENT_LENGTH, "9")]), Err(Transient));
        assert_eq!(class(206, 10..20, &[(CONTENT_RANGE, "bytes 10-19/100"), (CONTENT_ENCODING, "gzip")]), Err(Permanent));
        assert_eq!(class(200, 10..20, &[]), Err(Permanent));
        assert_eq!(class(200, 0..100, &[(CONTENT_LENGTH, "100")]).map(|e| e.total), Ok(Some(100)));
        assert_eq!(class(200, 0..100, &[(CONTENT_LENGTH, "99")]), Err(Corrupt));
        for (status, expected) in [
            (204, Permanent),
            (302, Permanent),
            (401, Permanent),
            (403, Permanent),
            (404, Permanent),
            (408, Transient),
            (410, Permanent),
            (416, Permanent),
            (429, Transient),
            (500, Transient),
            (503, Transient),
        ] {
            assert_eq!(class(status, 0..100, &[]), Err(expected), "{status}");
        }
    }

    #[test]
    fn entities_are_compared_by_what_both_name() {
        let one = Entity { etag: Some("\"a\"".into()), last_modified: Some("Mon".into()), total: Some(1) };
        assert!(one.agrees(&Entity { etag: Some("W/\"a\"".into()), ..one.clone() }));
        assert!(one.agrees(&Entity::default()));
        assert!(!one.agrees(&Entity { etag: Some("\"b\"".into()), ..one.clone() }));
        assert!(!one.agrees(&Entity { last_modified: Some("Tue".into()), ..Entity::default() }));
        assert!(!one.agrees(&Entity { total: Some(2), ..one.clone() }));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap();
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Thu, 01 Jan 2026 00:01:00 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Wed, 31 Dec 2025 00:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
        for endless in ["18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(retry_after(endless, now), Some(LONGEST_WAIT), "{endless}");
        }
    }
}
