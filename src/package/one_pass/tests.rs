use super::*;
use crate::package::scan::scan;
use proptest::prelude::*;
use sha1::Digest;
use std::path::PathBuf;

/// Bytes that differ from position to position.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(step).collect()
}

/// A directory with files of the given sizes, named in order, and all their bytes.
fn package(sizes: &[usize]) -> (tempfile::TempDir, Vec<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, n)| noise(i as u64 + 1, *n)).collect();
    for (i, d) in data.iter().enumerate() {
        std::fs::write(dir.path().join(format!("f{i:04}")), d).unwrap();
    }
    (dir, data)
}

fn naive_pieces(whole: &[u8], piece_length: u64) -> Vec<PieceHash> {
    whole.chunks(piece_length as usize).map(|c| sha1::Sha1::digest(c).into()).collect()
}

fn check_against_naive(sizes: &[usize], piece_length: u64, workers: usize) {
    let (dir, data) = package(sizes);
    let files = scan(dir.path()).unwrap().files;
    let progress = PassProgress::default();
    let out = hash_package(dir.path(), &files, piece_length, workers, &progress).unwrap();
    for pairs in [true, false] {
        let other = hash_package_as(pairs, dir.path(), &files, piece_length, workers, &PassProgress::default()).unwrap();
        assert_eq!(other, out, "pairs {pairs}");
    }
    let sha1: Vec<Sha1> = data.iter().map(|d| Sha1(sha1::Sha1::digest(d).into())).collect();
    let whole = data.concat();
    assert_eq!(out.sha1, sha1);
    assert_eq!(out.pieces, naive_pieces(&whole, piece_length));
    assert_eq!(progress.done.load(Ordering::Relaxed), whole.len() as u64);
    assert_eq!(hash_files(dir.path(), &files, workers, &progress).unwrap(), sha1);
}

#[test]
fn shapes_that_have_gone_wrong_elsewhere() {
    check_against_naive(&[], 1000, 2);
    check_against_naive(&[0], 1000, 2);
    check_against_naive(&[0, 0, 3000, 0], 1000, 2);
    check_against_naive(&[999, 1, 1000, 2001], 1000, 3);
    check_against_naive(&[1; 50], 7, 2);
    // One huge file, with blocks and pieces that do not divide each other.
    check_against_naive(&[(5 << 20) + 123], (1 << 20) + 4096, 2);
    check_against_naive(&[10, (3 << 20) + 1, 77, 2 << 20], 256 << 10, 2);
    check_against_naive(&[4 << 20], 16 << 20, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_package_gives_the_digests_of_a_plain_loop(sizes in proptest::collection::vec(0usize..5000, 0..12), piece in 1u64..4000, workers in 1usize..4) {
        check_against_naive(&sizes, piece, workers);
    }

    /// A front run of the package costs one piece and gives what hashing it anew would give.
    #[test]
    fn a_prefix_needs_only_the_cut_piece(sizes in proptest::collection::vec(0usize..3000, 1..8), piece in 1u64..2000, part in 0u64..=100) {
        let (dir, data) = package(&sizes);
        let files = scan(dir.path()).unwrap().files;
        let whole = data.concat();
        let full = naive_pieces(&whole, piece);
        let prefix = whole.len() as u64 * part / 100;
        let pieces = hash_prefix(dir.path(), &files, &full, piece, prefix).unwrap();
        prop_assert_eq!(pieces, naive_pieces(&whole[..prefix as usize], piece));
    }
}

#[test]
fn segments_in_any_order_and_overlap() {
    let (dir, data) = package(&[5000, 0, (2 << 20) + 17]);
    let files = scan(dir.path()).unwrap().files;
    let segments = [
        Segment { file: &files[2], offset: 1 << 20, len: (1 << 20) + 17 },
        Segment { file: &files[0], offset: 100, len: 900 },
        Segment { file: &files[1], offset: 0, len: 0 },
        Segment { file: &files[0], offset: 0, len: 200 },
    ];
    let whole = [&data[2][1 << 20..], &data[0][100..1000], &data[0][..200]].concat();
    let p = PassProgress::default();
    assert_eq!(hash_segments(dir.path(), &segments, 4096, 2, &p).unwrap(), naive_pieces(&whole, 4096));
    let beyond = [Segment { file: &files[0], offset: 4000, len: 1001 }];
    assert!(hash_segments(dir.path(), &beyond, 4096, 2, &p).is_err());
    let wrap = [Segment { file: &files[0], offset: u64::MAX, len: 2 }];
    assert!(hash_segments(dir.path(), &wrap, 4096, 2, &p).is_err());
    assert!(hash_segments(dir.path(), &segments, 0, 2, &p).is_err());
}

#[test]
fn pieces_of_another_package_are_noticed() {
    let (dir, data) = package(&[5000]);
    let files = scan(dir.path()).unwrap().files;
    let mut full = naive_pieces(&data[0], 1000);
    full[2][0] ^= 1;
    assert!(hash_prefix(dir.path(), &files, &full, 1000, 2500).is_err());
    assert!(hash_prefix(dir.path(), &files, &full[..4], 1000, 1500).is_err());
    assert!(hash_prefix(dir.path(), &files, &full, 1000, 5001).is_err());
}

/// What is done to a file between the scan and the pass.
type Harm = (&'static str, fn(PathBuf));

#[test]
fn a_changed_file_is_named() {
    let harms: [Harm; 5] = [
        ("grown", |p| std::fs::write(p, vec![0; 6000]).unwrap()),
        ("cut", |p| std::fs::write(p, b"short").unwrap()),
        ("touched", |p| {
            let then = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
            std::fs::File::options().append(true).open(p).unwrap().set_modified(then).unwrap();
        }),
        ("gone", |p| std::fs::remove_file(p).unwrap()),
        ("made a link", |p| {
            std::fs::rename(&p, p.with_extension("real")).unwrap();
            std::os::unix::fs::symlink(p.with_extension("real"), p).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let (dir, _) = package(&[10, 5000, 10]);
        let files = scan(dir.path()).unwrap().files;
        harm(dir.path().join("f0001"));
        let fault = hash_package(dir.path(), &files, 1000, 2, &PassProgress::default()).unwrap_err();
        assert_eq!(fault.file.as_deref(), Some("f0001"), "{what}: {fault}");
    }
}

#[test]
fn a_file_that_grows_during_the_pass_is_named() {
    let (dir, _) = package(&[5000]);
    let files = scan(dir.path()).unwrap().files;
    let mut source = Source::open(dir.path(), &files[0]).unwrap();
    source.read(0, &mut [0; 100]).unwrap();
    std::fs::write(dir.path().join("f0000"), vec![1; 5001]).unwrap();
    assert_eq!(source.close().unwrap_err().file.as_deref(), Some("f0000"));
}

#[test]
fn cancelling_ends_the_pass() {
    let (dir, _) = package(&[5000, 5000]);
    let files = scan(dir.path()).unwrap().files;
    let progress = PassProgress::default();
    progress.cancel.store(true, Ordering::Relaxed);
    let fault = hash_package(dir.path(), &files, 1000, 2, &progress).unwrap_err();
    assert_eq!(fault.message, "cancelled");
    assert!(!fault.is_transient());
}
