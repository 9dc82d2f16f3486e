//! The XML of answers and of the one request body that is read.

use super::state::{Object, Upload};
use quick_xml::escape::escape;
use std::collections::BTreeMap;

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>";
const NS: &str = "xmlns=\"http://obs.myhwclouds.com/doc/2015-06-30/\"";

pub fn error(code: &str) -> String {
    format!("{HEAD}<Error><Code>{code}</Code><Message>{code}</Message><RequestId>0</RequestId><HostId>h</HostId></Error>")
}

pub fn initiated(bucket: &str, key: &str, id: &str) -> String {
    format!(
        "{HEAD}<InitiateMultipartUploadResult {NS}><Bucket>{bucket}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
        escape(key)
    )
}

pub fn completed(bucket: &str, key: &str, etag: &str) -> String {
    let key = escape(key);
    format!(
        "{HEAD}<CompleteMultipartUploadResult {NS}><Location>/{bucket}/{key}</Location><Bucket>{bucket}</Bucket><Key>{key}</Key><ETag>\"{etag}\"</ETag></CompleteMultipartUploadResult>"
    )
}

pub fn copied(etag: &str) -> String {
    format!(
        "{HEAD}<CopyObjectResult {NS}><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"{etag}\"</ETag></CopyObjectResult>"
    )
}

/// At most `max` parts after `marker`.
pub fn parts(upload: &Upload, id: &str, marker: u64, max: usize) -> String {
    let after: Vec<_> = upload.parts.range(marker + 1..).collect();
    let page = &after[..after.len().min(max)];
    let truncated = page.len() < after.len();
    let next = page.last().map_or(marker, |(n, _)| **n);
    let items: String = page
        .iter()
        .map(|(n, b)| {
            format!(
                "<Part><PartNumber>{n}</PartNumber><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"{}\"</ETag><Size>{}</Size></Part>",
                hex::encode(b.md5),
                b.size
            )
        })
        .collect();
    format!(
        "{HEAD}<ListPartsResult {NS}><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId><PartNumberMarker>{marker}</PartNumberMarker><NextPartNumberMarker>{next}</NextPartNumberMarker><MaxParts>{max}</MaxParts><IsTruncated>{truncated}</IsTruncated>{items}</ListPartsResult>",
        upload.bucket,
        escape(&upload.key)
    )
}

pub fn uploads(bucket: &str, prefix: &str, uploads: &BTreeMap<String, Upload>) -> String {
    let items: String = uploads
        .iter()
        .filter(|(_, u)| u.bucket == bucket && u.key.starts_with(prefix))
        .map(|(id, u)| {
            format!(
                "<Upload><Key>{}</Key><UploadId>{id}</UploadId><Initiated>{}</Initiated></Upload>",
                escape(&u.key),
                u.initiated.format("%Y-%m-%dT%H:%M:%S%.3fZ")
            )
        })
        .collect();
    format!(
        "{HEAD}<ListMultipartUploadsResult {NS}><Bucket>{bucket}</Bucket><MaxUploads>1000</MaxUploads><IsTruncated>false</IsTruncated>{items}</ListMultipartUploadsResult>"
    )
}

pub struct Listing<'a> {
    pub bucket: &'a str,
    pub prefix: &'a str,
    pub delimiter: &'a str,
    pub marker: &'a str,
    pub max: usize,
}

pub fn list(ask: &Listing, objects: &BTreeMap<(String, String), Object>) -> String {
    let (mut items, mut groups, mut count, mut last, mut truncated) = (String::new(), String::new(), 0, String::new(), false);
    for ((bucket, key), object) in objects {
        let Some(rest) = key.strip_prefix(ask.prefix).filter(|_| bucket == ask.bucket) else { continue };
        let group = (!ask.delimiter.is_empty()).then(|| rest.split_once(ask.delimiter)).flatten();
        let entry = group.map_or_else(|| key.clone(), |(first, _)| format!("{}{first}{}", ask.prefix, ask.delimiter));
        if entry.as_str() <= ask.marker || entry == last {
            continue;
        }
        if count == ask.max {
            truncated = true;
            break;
        }
        count += 1;
        if group.is_some() {
            groups.push_str(&format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(&entry)));
        } else {
            items.push_str(&format!(
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>\"{}\"</ETag><Size>{}</Size><Owner><ID>o</ID></Owner><StorageClass>STANDARD</StorageClass></Contents>",
                escape(key),
                object.modified.format("%Y-%m-%dT%H:%M:%S.000Z"),
                object.etag,
                object.blob.size
            ));
        }
        last = entry;
    }
    let next = if truncated { format!("<NextMarker>{}</NextMarker>", escape(&last)) } else { String::new() };
    format!(
        "{HEAD}<ListBucketResult {NS}><Name>{}</Name><Prefix>{}</Prefix><Marker>{}</Marker>{next}<MaxKeys>{}</MaxKeys><IsTruncated>{truncated}</IsTruncated>{items}{groups}</ListBucketResult>",
        ask.bucket,
        escape(ask.prefix),
        escape(ask.marker),
        ask.max
    )
}

/// The parts of a completion, as number and ETag.
pub fn read_completion(body: &str) -> Option<Vec<(u64, String)>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Part {
        part_number: u64,
        #[serde(rename = "ETag")]
        etag: String,
    }
    #[derive(serde::Deserialize)]
    struct Completion {
        #[serde(default, rename = "Part")]
        parts: Vec<Part>,
    }
    let read: Completion = quick_xml::de::from_str(body).ok()?;
    Some(read.parts.into_iter().map(|p| (p.part_number, p.etag.trim_matches('"').to_owned())).collect())
}
