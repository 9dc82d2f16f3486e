use super::*;
use proptest::prelude::*;

fn rel(s: &str) -> RelPath {
    RelPath::parse(s).unwrap()
}

fn sample() -> Metainfo {
    let files = vec![(rel("ASSETMAP.xml"), 2349), (rel("sub/a.mxf"), 100_000), (rel("sub/empty"), 0)];
    Metainfo::directory("http://tracker.example.com:6969/announce", "xiaofang", files, 65536, vec![[7; 20], [8; 20]]).unwrap()
}

fn parse_text(s: &str) -> Result<Metainfo, Fault> {
    Metainfo::parse(s.as_bytes())
}

/// `info` with one piece of one file of 5 bytes and the given name.
fn named(name: &str) -> String {
    format!("d4:infod6:lengthi5e4:name{}:{name}12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaaee", name.len())
}

/// A torrent with one file of 5 bytes at a path given as bencoded parts.
fn with_path(parts: &str) -> String {
    format!("d4:infod5:filesld6:lengthi5e4:pathl{parts}eee4:name1:x12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaaee")
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let m = Metainfo::single_file("http://t.example.com/a", "x", 5, 16384, vec![*b"aaaaaaaaaaaaaaaaaaaa"]).unwrap().private();
    let text = String::from_utf8(m.encode()).unwrap();
    let by = concat!("bftv2/", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        text,
        format!(
            "d8:announce22:http://t.example.com/a10:created by{}:{by}4:infod6:lengthi5e4:name1:x12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa7:privatei1eee",
            by.len()
        )
    );
    let info = &text[text.find("4:info").unwrap() + 6..text.len() - 1];
    assert_eq!(m.info_hash(), <[u8; 20]>::from(Sha1::digest(info.as_bytes())));
}

#[test]
fn a_foreign_torrent_keeps_its_identity() {
    // Extra keys inside `info`, an absolute name with a slash at its end, keys out of order.
    let info = "d6:lengthi5e4:name14:/data/dcp/nam/12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa6:source3:abc1:ai-5ee";
    let m = parse_text(&format!("d13:announce-listll3:abcee4:info{info}e")).unwrap();
    assert_eq!((m.name(), m.total(), m.is_single(), m.announce()), ("nam", 5, true, ""));
    assert_eq!(m.info_hash(), <[u8; 20]>::from(Sha1::digest(info.as_bytes())));
    let again = Metainfo::parse(&m.clone().with_announce("http://other.example.com/announce").encode()).unwrap();
    assert_eq!(again.info_hash(), m.info_hash());
    assert_eq!(again.announce(), "http://other.example.com/announce");
}

#[test]
fn unsafe_names_are_refused() {
    assert!(parse_text(&named("plain")).is_ok());
    assert_eq!(parse_text(&named("/data/dcp/plain")).unwrap().name(), "plain");
    for bad in ["", "/", "..", "/data/..", "a\\b", "a\u{1}b"] {
        assert!(parse_text(&named(bad)).is_err(), "{bad:?} was accepted");
    }
    assert_eq!(parse_text(&with_path("3:sub5:a.mxf")).unwrap().files(), [(rel("sub/a.mxf"), 5)]);
    for bad in ["", "0:", "2:..", "1:a2:..", "4:/etc", "3:a/b", "1:a0:1:b", "2:a\\", "1:."] {
        assert!(parse_text(&with_path(bad)).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn hostile_structures_are_refused() {
    let deep = format!("d1:a{}{}4:infodee", "l".repeat(100_000), "e".repeat(100_000));
    let dictionary = |files: &str, pieces: usize| {
        format!("d4:infod5:filesl{files}e4:name1:x12:piece lengthi16384e6:pieces{}:{}ee", pieces * 20, "h".repeat(pieces * 20))
    };
    let file = |size: &str, parts: &str| format!("d6:lengthi{size}e4:pathl{parts}ee");
    let twice = file("1", "1:a").repeat(2);
    let cases = [
        ("empty", String::new()),
        ("not a dictionary", "i5e".into()),
        ("deep", deep),
        ("long text", "d99999999999999999999:".into()),
        ("long text that fits a word", "d18446744073709551615:a".into()),
        ("bytes behind", named("x") + "e"),
        ("no info", "d8:announce1:ae".into()),
        ("name twice", named("x").replace("4:name", "4:name1:y4:name")),
        ("negative", dictionary(&file("-5", "1:a"), 1)),
        ("leading zero", dictionary(&file("05", "1:a"), 1)),
        ("sum overflows", dictionary(&(file("9223372036854775807", "1:a") + &file("9223372036854775807", "1:b")), 1)),
        ("same path", dictionary(&twice, 1)),
        ("file and directory", dictionary(&(file("1", "1:a") + &file("1", "1:a1:b")), 1)),
        ("no files", dictionary("", 0)),
        ("pieces too few", dictionary(&file("16385", "1:a"), 1)),
        ("pieces too many", dictionary(&file("16384", "1:a"), 2)),
        ("both kinds", named("x").replace("d6:length", "d5:filesle6:length")),
        ("piece length 0", named("x").replace("i16384e", "i0e")),
        ("piece length huge", named("x").replace("i16384e", "i9223372036854775807e")),
        ("half a hash", named("x").replace("20:aaaaaaaaaa", "10:")),
    ];
    assert!(parse_text(&dictionary(&file("16384", "1:a"), 1)).is_ok());
    for (what, text) in cases {
        assert!(parse_text(&text).is_err(), "{what} was accepted");
    }
    assert!(Metainfo::parse(&vec![b'l'; MAX_READ + 1]).is_err());
    let data = sample().encode();
    for end in 0..data.len() {
        assert!(Metainfo::parse(&data[..end]).is_err(), "cut at {end} was accepted");
    }
}

#[test]
fn own_torrents_are_checked_too() {
    assert!(Metainfo::directory("", "../x", vec![(rel("a"), 1)], 65536, vec![[0; 20]]).is_err());
    assert!(Metainfo::directory("", "a/b", vec![(rel("a"), 1)], 65536, vec![[0; 20]]).is_err());
    assert!(Metainfo::directory("", "x", vec![(rel("a"), 1)], 65536, vec![]).is_err());
    assert!(Metainfo::single_file("", "a/b", 1, 65536, vec![[0; 20]]).is_err());
}

#[test]
fn the_piece_length_grows_with_the_package() {
    let none: [&RelPath; 0] = [];
    for (total, want) in [
        (0, 256 << 10),
        (256 << 20, 256 << 10),
        (1 << 30, 1 << 20),
        (32 << 30, 2 << 20),
        (64 << 30, 4 << 20),
        (200 << 30, 4 << 20),
        (300 << 30, 8 << 20),
        (512 << 30, 16 << 20),
        (1 << 40, 16 << 20),
    ] {
        assert_eq!(piece_length_for(total, none), want, "{total}");
    }
}

proptest! {
    #[test]
    fn both_limits_hold(total in 0u64..(1 << 43), files in 1usize..4000, part in "[a-z]{1,60}") {
        let paths: Vec<RelPath> = (0..files).map(|i| rel(&format!("{part}/{part}-{i:05}.mxf"))).collect();
        let length = piece_length_for(total, &paths);
        prop_assert!(length.is_power_of_two() && length >= 256 << 10);
        prop_assert!(total.div_ceil(length) <= MAX_PIECES);
        let list: Vec<(RelPath, u64)> = paths.into_iter().enumerate().map(|(i, p)| (p, if i == 0 { total } else { 0 })).collect();
        let pieces = vec![[1; 20]; total.div_ceil(length) as usize];
        let m = Metainfo::directory("http://tracker.example.com:6969/announce", &"n".repeat(200), list, length, pieces).unwrap();
        prop_assert!(m.encode().len() as u64 <= MAX_TORRENT_BYTES);
    }

    #[test]
    fn what_is_written_is_read(sizes in proptest::collection::vec(0u64..200_000, 1..20), name in "[a-zA-Z0-9 名_-]{1,20}", announce in "[ -~]{0,40}") {
        let files: Vec<(RelPath, u64)> = sizes.iter().enumerate().map(|(i, s)| (rel(&format!("d{}/{name}{i}", i % 3)), *s)).collect();
        let pieces: Vec<PieceHash> = (0..sizes.iter().sum::<u64>().div_ceil(65536)).map(|i| [i as u8; 20]).collect();
        let m = Metainfo::directory(&announce, &name, files, 65536, pieces).unwrap();
        prop_assert_eq!(Metainfo::parse(&m.encode()).unwrap(), m);
    }

    /// No input makes the reader panic, and what it accepts keeps the rules.
    #[test]
    fn damage_never_panics(changes in proptest::collection::vec((0usize..400, any::<u8>()), 1..6), cut in 0usize..400) {
        let mut data = sample().encode();
        for (at, byte) in changes {
            let n = data.len();
            data[at % n] = byte;
        }
        if let Ok(m) = Metainfo::parse(&data) {
            prop_assert_eq!(m.pieces().len() as u64, m.total().div_ceil(m.piece_length()));
        }
        data.remove(cut % data.len());
        let _ = Metainfo::parse(&data);
    }

    #[test]
    fn any_bytes_never_panic(data in proptest::collection::vec(prop_oneof![Just(b'd'), Just(b'l'), Just(b'e'), Just(b'i'), Just(b':'), b'0'..=b'9', any::<u8>()], 0..200)) {
        let _ = Metainfo::parse(&data);
    }
}
