use super::*;
use crate::model::endpoint::ObsStore;
use serde_json::json;

fn parse(v: &Value) -> Result<(Config, Vec<String>), ConfigError> {
    Config::parse(v.to_string().as_bytes())
}

fn sub(s: &str) -> BaseSubdir {
    BaseSubdir::parse(s).unwrap()
}

#[test]
fn the_shipped_samples_are_right() {
    let samples = [
        (include_str!("../../config/sender.json"), NodeType::Sender),
        (include_str!("../../config/receiver.json"), NodeType::Receiver),
        (include_str!("../../config/cacher.json"), NodeType::Cacher),
    ];
    for (text, role) in samples {
        let (c, warnings) = Config::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{role}: {e}"));
        assert_eq!(c.servertype, role);
        assert_eq!(warnings, Vec::<String>::new(), "{role}");
        assert!(c.splitfiles || role != NodeType::Sender);
    }
}

#[test]
fn the_published_sample_with_its_missing_commas() {
    let text = r#"{
        "Servertype": "cacher", "machinetype": "local"
        "receiverid": "cfec0002",
        "basedatapath": "/data/dcp/"   // no slash at the end, says the text
        "avoidrepeat": "true", "ctcs": "localhost:2780", "senderid": "cfec",
        "senddomain": "http://192.0.2.20",
        "bt-obs-cdn": "2:1:1", "tracker": "http://tracker.example.com:6969/announce",
        "defaultseedtime": "72", "obsurl": "obs://bucket-example", "cdnurl": "http://cdn.example.com/",
        "bttime": "08:00-18:00", "cdntime": "06:00-00:00", "ctfilesorder": true,
        "obsak": "EXAMPLE-AK", "obssk": "EXAMPLE-SK", "obsendpoint": "obs.example.com",
        "receiverstoreplan": "a", "uploadingnum": "7", "downloadingnum": 5,
        "hashtable": "/data/bft2/hashtable.txt"
        "prior": "priortime",
    }"#;
    let (c, warnings) = Config::parse(text.as_bytes()).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(c.servertype, NodeType::Cacher);
    assert_eq!(c.policy, Policy::Priortime);
    assert_eq!(c.senderdomain.as_deref(), Some("http://192.0.2.20"));
    assert_eq!(c.cdnurl.as_deref(), Some("http://cdn.example.com"));
    assert_eq!(c.basedatapath, Path::new("/data/dcp"));
    assert_eq!(c.ratio.to_string(), "2:1:1");
    assert_eq!(c.uploadingnum, 7);
    assert_eq!(c.obstime.to_string(), "00:00-08:00");
    assert_eq!(c.hashtable(), Path::new("/data/bft2/hashtable.txt"));
}

#[test]
fn defaults() {
    let (c, _) = parse(&json!({"servertype": "sender", "obsendpoint": "", "token": null})).unwrap();
    assert_eq!(c.listen.to_string(), "127.0.0.1:8191");
    assert_eq!(c.console.unwrap().to_string(), "127.0.0.1:2780");
    assert_eq!(c.btlisten.to_string(), "0.0.0.0:26881");
    assert_eq!(c.database(), Path::new("/var/lib/bft2/bft2.db"));
    assert_eq!((c.retries, c.retrydelay.as_secs(), c.defaultseedtime_hours), (5, 300, 72));
    assert_eq!((c.eventdays, c.historydays, c.sampledays, c.stoptimeout.as_secs(), c.settle.as_secs()), (90, 365, 30, 20, 2));
    assert!(c.avoidrepeat && c.ctfilesorder && c.receiverseed && !c.splitfiles && !c.keeppartial);
    assert_eq!((c.btrate, c.trackerlisten, c.weblisten, c.obsendpoint.is_none()), (None, None, None, true));
    assert!(parse(&json!({"servertype": "sender", "console": ""})).unwrap().0.console.is_none());
}

#[test]
fn derived_paths() {
    let dirs = |role: &str, plan: &str| {
        let (c, _) = parse(&json!({"servertype": role, "receiverstoreplan": plan, "datadir": "/srv/x"})).unwrap();
        assert_eq!(c.sender_dir(), Path::new("/srv/x/sender"));
        assert_eq!(c.receiver_dir(), Path::new("/srv/x/receiver"));
        assert_eq!(c.transfer_dir(), Path::new("/srv/x/transfer"));
        assert_eq!(c.dcps_tmp_dir(&sub("cfec-001")), Path::new("/srv/x/dcp/cfec-001/dcps-tmp"));
        c.dcps_dir(&sub("cfec-001"))
    };
    assert_eq!(dirs("sender", "A"), Path::new("/srv/x/dcp/cfec-001/dcps"));
    assert_eq!(dirs("receiver", "B"), Path::new("/srv/x/dcp/cfec-001/dcps"));
    assert_eq!(dirs("receiver", "A"), Path::new("/srv/x/dcp"));
}

#[test]
fn unknown_keys_are_named() {
    let (_, warnings) = parse(&json!({"servertype": "sender", "bttimes": "x", "zeta": 1})).unwrap();
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].contains("bttimes") && warnings[1].contains("zeta"));
    let low = json!({"servertype": "sender", "btrate": "4K", "btuprate": "16K", "btuprateoutside": 1, "cdnrate": 1, "btrateoutside": 0});
    let (c, warnings) = parse(&low).unwrap();
    assert_eq!((c.btrate, warnings.len()), (Some(4096), 2), "{warnings:?}");
    assert!(warnings[0].starts_with("btrate: 4096 bytes per second") && warnings[1].starts_with("btuprateoutside: 1 "));
}

#[test]
fn wrong_values_name_key_and_what_is_allowed() {
    for (key, value) in [
        ("servertype", json!("boss")),
        ("servertype", json!("")),
        ("machinetype", json!("cloud")),
        ("basedatapath", json!("data/dcp")),
        ("basedatapath", json!("/data/../etc")),
        ("basesubdir", json!("a/b")),
        ("avoidrepeat", json!("maybe")),
        ("senderid", json!("a_b")),
        ("senderdomain", json!("192.0.2.10")),
        ("bt-obs-cdn", json!("0:0:0")),
        ("priorpolicy", json!("never")),
        ("tracker", json!("file:///x")),
        ("defaultseedtime", json!("-1")),
        ("defaultseedtime", json!(1_000_000)),
        ("obsurl", json!("http://x.example.com")),
        ("cdnurl", json!("file:///data")),
        ("bttime", json!("8-9")),
        ("obsendpoint", json!("file://relative/x")),
        ("datasource", json!("tape")),
        ("receiverstoreplan", json!("C")),
        ("uploadingnum", json!(0)),
        ("hashtable", json!("hash.txt")),
        ("listen", json!("8191")),
        ("listen", json!("0.0.0.0:8191")),
        ("console", json!("192.0.2.1:2780")),
        ("btpeers", json!(["nowhere"])),
        ("btpeers", json!({"a": 1})),
        ("btrate", json!("fast")),
        ("btrate", json!(-1)),
        ("btrate", json!("99999999999G")),
        ("splitfiles", json!([])),
        ("retries", json!(1.5)),
        ("webhook", json!("mailto:a@example.com")),
        ("loglevel", json!("loud")),
        ("stoptimeout", json!(0)),
        ("token", json!({"a": 1})),
    ] {
        let mut v = json!({"servertype": "sender"});
        v[key] = value.clone();
        match parse(&v) {
            Err(ConfigError::Bad { key: named, allowed, .. }) => {
                assert_eq!(named, key, "{value}");
                assert!(!allowed.is_empty());
            }
            other => panic!("{key} = {value} gave {other:?}"),
        }
    }
    assert!(matches!(Config::parse(b"{\"servertype\""), Err(ConfigError::NotJson(_))));
    assert!(matches!(Config::parse(b"[1]"), Err(ConfigError::Bad { .. })));
}

#[test]
fn rates_and_addresses() {
    for (text, want) in [
        (json!("20M"), Some(20 << 20)),
        (json!("20 MB/s"), Some(20 << 20)),
        (json!("512k"), Some(512 << 10)),
        (json!("1G"), Some(1 << 30)),
        (json!(1000), Some(1000)),
        (json!("0"), None),
        (json!(""), None),
    ] {
        assert_eq!(parse(&json!({"servertype": "sender", "cdnrate": text})).unwrap().0.cdnrate, want, "{text}");
    }
    let open = json!({"servertype": "sender", "listen": "0.0.0.0:8191", "token": "EXAMPLE-TOKEN", "btpeers": "a.example.com:1, 192.0.2.1:2"});
    let (c, _) = parse(&open).unwrap();
    assert_eq!(c.btpeers, ["a.example.com:1", "192.0.2.1:2"]);
    assert!(parse(&json!({"servertype": "sender", "listen": "localhost:0"})).unwrap().0.listen.ip().is_loopback());
    let (c, _) = parse(&json!({"servertype": "sender", "obsendpoint": "file:///srv/store"})).unwrap();
    assert_eq!(c.obsendpoint.unwrap().store(), &ObsStore::Dir("/srv/store".into()));
}

#[test]
fn secrets_show_nowhere_and_every_key_is_listed() {
    let text = include_str!("../../config/sender.json");
    let mut v = crate::model::json::parse_config(text).unwrap();
    v["token"] = "EXAMPLE-TOKEN".into();
    v["webhook"] = "https://hooks.example.com/EXAMPLE-HOOK".into();
    v["obsak"] = "EXAMPLE-AK".into();
    v["obssk"] = "EXAMPLE-SK".into();
    let (c, _) = parse(&v).unwrap();
    let masked = c.masked_json();
    for shown in [format!("{c:?}"), masked.to_string()] {
        assert!(!shown.contains("EXAMPLE-"), "{shown}");
    }
    assert_eq!(masked["obssk"], "***");
    // Read back it is the same, secrets aside.
    let (mut again, warnings) = Config::parse(masked.to_string().replace("\"***\"", "\"\"").as_bytes()).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    (again.obsak, again.obssk, again.token, again.webhook) =
        (c.obsak.clone(), c.obssk.clone(), c.token.clone(), c.webhook.clone());
    assert_eq!(again, c);
    let e = parse(&json!({"servertype": "sender", "obssk": "EXAMPLE-SK\n"})).map(|_| ());
    assert!(!format!("{e:?}").contains("EXAMPLE-"));
}

#[test]
fn a_reload_swaps_only_when_it_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, r#"{"servertype": "sender", "uploadingnum": 2}"#).unwrap();
    let (handle, _) = ConfigHandle::load(&path).unwrap();
    let before = handle.current();

    std::fs::write(&path, r#"{"servertype": "sender", "uploadingnum": 0}"#).unwrap();
    assert!(handle.reload().unwrap_err().to_string().contains("uploadingnum"));
    assert_eq!(handle.current().uploadingnum, 2);

    std::fs::write(&path, r#"{"servertype": "sender", "uploadingnum": 9, "listen": "127.0.0.1:1", "obsak": "EXAMPLE-AK"}"#)
        .unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = handle.clone().reload().unwrap();
    assert_eq!(handle.current().uploadingnum, 9);
    assert_eq!(before.uploadingnum, 2);
    assert!(warnings.iter().any(|w| w.contains("listen")) && warnings.iter().any(|w| w.contains("chmod 600")), "{warnings:?}");

    // What the process took at its start is not changed by a reload, and the reply must not pretend so.
    std::fs::write(&path, r#"{"servertype": "sender", "token": "EXAMPLE-TOKEN", "loglevel": "debug", "stoptimeout": 7}"#)
        .unwrap();
    let warnings = handle.reload().unwrap().join("; ");
    for key in ["token", "loglevel", "stoptimeout"] {
        assert!(warnings.contains(&format!("{key} has changed: it takes effect when")), "{key}: {warnings}");
    }
    assert!(!warnings.contains("EXAMPLE-"), "{warnings}");
    assert!(handle.current().token.is_empty() && handle.current().stoptimeout == before.stoptimeout);

    std::fs::remove_file(&path).unwrap();
    assert!(matches!(handle.reload(), Err(ConfigError::Unreadable { .. })));
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(handle.reload(), Err(ConfigError::TooLarge { .. })));
    // Nor can one be uploaded that could not be read at the next start.
    std::fs::write(&path, r#"{"servertype": "receiver"}"#).unwrap();
    let large = serde_json::json!({"servertype": "receiver", "more": vec![1; 600_000]});
    assert!(matches!(handle.edited(&large), Err(ConfigError::TooLarge { .. })));
}
