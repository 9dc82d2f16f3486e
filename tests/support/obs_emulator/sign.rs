//! Who signed a request, and whether rightly: Huawei's header signature (and its pre-signed form), computed from the
//! request as it came in.

use super::serve::Target;
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use poem::http::{HeaderMap, Method};

/// The key pair that the emulator knows.
pub const AK: &str = "EXAMPLE-AK";
pub const SK: &str = "EXAMPLE-SK";

/// Query parameters that are signed.
const SUBRESOURCES: &str = "CDNNotifyConfiguration acl append attname backtosource cors customdomain delete deletebucket \
     directcoldaccess encryption inventory length lifecycle location logging metadata modify name notification partNumber \
     policy position quota rename replication response-cache-control response-content-disposition \
     response-content-encoding response-content-language response-content-type response-expires restore storageClass \
     storagePolicy storageinfo tagging torrent truncate uploadId uploads versionId versioning versions website \
     x-image-process x-image-save-bucket x-image-save-object x-obs-security-token object-lock retention";

/// The store's error code when the request is not signed by [`AK`].
pub fn verify(method: &Method, target: &Target, headers: &HeaderMap, clocks: [DateTime<Utc>; 2]) -> Result<(), &'static str> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (ak, given, date) = match text("authorization").strip_prefix("OBS ").and_then(|a| a.split_once(':')) {
        Some((ak, signature)) => {
            let date = if headers.contains_key("x-obs-date") { "" } else { text("date") };
            (ak.to_owned(), signature.to_owned(), date.to_owned())
        }
        None => {
            let query = |name: &str| target.query(name);
            let expires = query("Expires").ok_or("AccessDenied")?;
            if expires.parse::<i64>().map_err(|_| "AccessDenied")? < clocks[0].timestamp() {
                return Err("AccessDenied");
            }
            (query("AccessKeyId").ok_or("AccessDenied")?, query("Signature").ok_or("AccessDenied")?, expires)
        }
    };
    if ak != AK {
        return Err("InvalidAccessKeyId");
    }
    // The date must be there and near, as the real service demands.
    let stamp = if date.is_empty() { text("x-obs-date").to_owned() } else { date.clone() };
    let near = chrono::DateTime::parse_from_rfc2822(&stamp)
        .map(|d| clocks.iter().any(|now| (*now - d.to_utc()).num_minutes().abs() < 15));
    if headers.contains_key("authorization") && near != Ok(true) {
        return Err("RequestTimeTooSkewed");
    }
    let mut start = format!("{method}\n{}\n{}\n{date}\n", text("content-md5"), text("content-type"));
    let mut signed: Vec<_> = headers.iter().filter(|(n, _)| n.as_str().starts_with("x-obs-")).collect();
    signed.sort_by_key(|(n, _)| n.as_str().to_owned());
    for (name, value) in signed {
        start.push_str(&format!("{name}:{}\n", value.to_str().unwrap_or_default().trim()));
    }
    let resource = format!("/{}/{}{}", target.bucket, target.raw_key, signed_query(&target.raw_query));
    let right = reqsign_core::hash::base64_hmac_sha1(SK.as_bytes(), format!("{start}{resource}").as_bytes()) == given;
    if right { Ok(()) } else { Err("SignatureDoesNotMatch") }
}

fn signed_query(query: &str) -> String {
    let decode = |s: &str| percent_decode_str(s).decode_utf8_lossy().into_owned();
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(k, v)| (decode(k), decode(v)))
        .filter(|(k, _)| k.starts_with("x-obs-") || SUBRESOURCES.split_whitespace().any(|s| s == k))
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| if v.is_empty() { k } else { format!("{k}={v}") }).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}
