//! Two SHA-1s over the same bytes: the crate twice against one interleaved loop; and a whole pass over one large file,
//! the shape that parallelises worst. `cargo bench --bench sha1`.

use bft2::package::digest::{Sha1State, update_both};
use bft2::package::one_pass::{PassProgress, hash_package};
use bft2::package::scan::scan;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha1::Digest;
use std::hint::black_box;

fn digests(c: &mut Criterion) {
    let data = vec![0x5a; 1 << 20];
    let mut group = c.benchmark_group("two digests of 1 MiB");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("crate once (for scale)", |b| b.iter(|| sha1::Sha1::digest(black_box(&data))));
    group.bench_function("crate twice", |b| {
        b.iter(|| (sha1::Sha1::digest(black_box(&data)), sha1::Sha1::digest(black_box(&data))));
    });
    for (name, phase) in [("update_both", 0), ("update_both, other phase", 13)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let (mut x, mut y) = (Sha1State::new(), Sha1State::new());
                y.update(&data[..phase]);
                update_both(&mut x, &mut y, black_box(&data));
                (x.finish(), y.finish())
            });
        });
    }
    group.finish();
}

fn pass(c: &mut Criterion) {
    const SIZE: usize = 256 << 20;
    let dir = tempfile::tempdir().expect("a directory for the test file");
    std::fs::write(dir.path().join("one.mxf"), vec![0x5a; SIZE]).expect("room for the test file");
    let files = scan(dir.path()).expect("the test file is there").files;
    let mut group = c.benchmark_group("one pass over one file of 256 MiB");
    group.throughput(Throughput::Bytes(SIZE as u64)).sample_size(10);
    group.bench_function("8 MiB pieces, 2 workers", |b| {
        b.iter(|| hash_package(dir.path(), &files, 8 << 20, 2, &PassProgress::default()).map(|o| o.pieces.len()).ok());
    });
    group.finish();
}

criterion_group!(benches, digests, pass);
criterion_main!(benches);
