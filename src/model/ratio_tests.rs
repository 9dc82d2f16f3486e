use super::ids::RelPath;
use super::ratio::*;
use super::span::{Method, Span};
use proptest::prelude::*;

fn ratio(text: &str) -> Ratio {
    Ratio::parse(text).unwrap()
}

fn names(n: usize) -> Vec<RelPath> {
    (0..n).map(|i| RelPath::parse(&format!("f{i}")).unwrap()).collect()
}

fn with_sizes<'a>(names: &'a [RelPath], sizes: &[u64]) -> Vec<(&'a RelPath, u64)> {
    names.iter().zip(sizes.iter().copied()).collect()
}

#[test]
fn ratios_are_checked() {
    for good in ["1:1:1", "1:0:0", "0:0:1", " 2 : 1 : 1 ", "1000000:1:0"] {
        assert!(Ratio::parse(good).is_ok(), "{good:?} was refused");
    }
    for bad in
        ["", "1", "1:1", "1:1:1:1", "0:0:0", "a:1:1", "-1:1:1", "+1:1:1", "1:1:", "1000001:1:1", "1.5:1:1", "99999999999:0:0"]
    {
        assert!(Ratio::parse(bad).is_err(), "{bad:?} was accepted");
    }
    assert_eq!(ratio(" 2 : 1 : 1 ").to_string(), "2:1:1");
    assert!(ratio("3:0:0").is_bt_only() && !ratio("1:0:1").is_bt_only());
}

#[test]
fn the_documented_example() {
    let files: Vec<(RelPath, u64)> = [
        ("886e309a-dfd4-45ee-a542-7d1c4b4251e9_cpl.xml", 1778),
        ("zds-viedo.mxf", 933_597_669),
        ("zds-audio.mxf", 8_623_166),
        ("VOLINDEX", 155),
        ("24e738d2-8f07-437f-84f4-3f5efb8af8cc_pkl.xml", 1014),
        ("ASSETMAP.xml", 1453),
    ]
    .map(|(p, s)| (RelPath::parse(p).unwrap(), s))
    .into();
    let files: Vec<(&RelPath, u64)> = files.iter().map(|(p, s)| (p, *s)).collect();
    let lists = allocate_lists(&files, ratio("1:1:1"), Order::SizeDescending);
    let text = lists.paths.map(|l| l.into_iter().map(String::from).collect::<Vec<_>>());
    assert_eq!(text[0], ["zds-viedo.mxf"]);
    assert!(text[1].is_empty());
    assert_eq!(
        text[2],
        [
            "zds-audio.mxf",
            "886e309a-dfd4-45ee-a542-7d1c4b4251e9_cpl.xml",
            "ASSETMAP.xml",
            "24e738d2-8f07-437f-84f4-3f5efb8af8cc_pkl.xml",
            "VOLINDEX"
        ]
    );
    assert_eq!(lists.sizes, [933_597_669, 0, 8_627_566]);
}

#[test]
fn edges_of_whole_file_allocation() {
    use Method::*;
    let table: &[(&str, &[u64], &[Method])] = &[
        ("1:1:1", &[], &[]),
        ("1:1:1", &[10], &[Bt]),
        ("1:0:0", &[0, 5, 0], &[Bt, Bt, Bt]),
        ("0:1:1", &[5, 5], &[Obs, Cdn]),
        ("0:0:1", &[0, 0], &[Cdn, Cdn]),
        ("1:1:0", &[5, 5, 0], &[Bt, Obs, Obs]),
        ("1:1:1", &[3, 3, 3], &[Bt, Obs, Cdn]),
        ("1:1:1", &[0, 3, 3, 3, 0], &[Bt, Bt, Obs, Cdn, Cdn]),
        ("1:1:1", &[u64::MAX, 1], &[Bt, Cdn]),
    ];
    for (r, sizes, want) in table {
        let names = names(sizes.len());
        assert_eq!(allocate(&with_sizes(&names, sizes), ratio(r), Order::Torrent), *want, "{r} {sizes:?}");
    }
}

#[test]
fn edges_of_split_allocation() {
    use Method::*;
    // (ratio, piece, sizes) -> (file, offset, len, method)
    type Row<'a> = (&'a str, u64, &'a [u64], &'a [(u32, u64, u64, Method)]);
    let table: &[Row] = &[
        ("1:1:1", 10, &[300], &[(0, 0, 100, Bt), (0, 100, 100, Obs), (0, 200, 100, Cdn)]),
        ("1:0:1", 10, &[300], &[(0, 0, 150, Bt), (0, 150, 150, Cdn)]),
        ("1:0:0", 10, &[300, 0], &[(0, 0, 300, Bt), (1, 0, 0, Bt)]),
        // The border lies in the torrent's stream, not in the file.
        ("1:0:1", 10, &[5, 300], &[(0, 0, 5, Bt), (1, 0, 145, Bt), (1, 145, 155, Cdn)]),
        // A cut less than a piece from the end of a file is made there.
        ("1:1:0", 10, &[105, 95], &[(0, 0, 105, Bt), (1, 0, 95, Obs)]),
        ("1:1:0", 10, &[95, 105], &[(0, 0, 95, Bt), (1, 0, 105, Obs)]),
        // Smaller than a piece.
        ("1:1:1", 100, &[50], &[(0, 0, 50, Obs)]),
        ("1:1:1", 10, &[0, 0], &[(0, 0, 0, Cdn), (1, 0, 0, Cdn)]),
        ("0:1:0", 10, &[0, 7], &[(0, 0, 0, Obs), (1, 0, 7, Obs)]),
    ];
    for (r, piece, sizes, want) in table {
        let names = names(sizes.len());
        let got: Vec<_> = allocate_split(&with_sizes(&names, sizes), ratio(r), *piece)
            .into_iter()
            .map(|(s, m)| (s.file, s.offset, s.len, m))
            .collect();
        assert_eq!(got, *want, "{r} {piece} {sizes:?}");
    }
}

fn whole(sizes: &[u64], methods: &[Method]) -> Vec<(Span, Method)> {
    (0u32..).zip(sizes).zip(methods).map(|((file, &len), &m)| (Span { file, offset: 0, len }, m)).collect()
}

#[test]
fn edges_of_the_second_allocation() {
    use Method::*;
    // (ratio, sizes, methods, local files, has cdn) -> methods of the rest
    type Row<'a> = (&'a str, &'a [u64], &'a [Method], &'a [u32], bool, &'a [Method]);
    let sizes = [10, 10, 10, 10, 10, 10];
    let table: &[Row] = &[
        // Nothing local: nothing moves.
        ("1:1:1", &sizes, &[Bt, Bt, Obs, Obs, Cdn, Cdn], &[], true, &[Bt, Bt, Obs, Obs, Cdn, Cdn]),
        // The cdn part is local: obs gives, bt would fall below its share of 40/3.
        ("1:1:1", &sizes, &[Bt, Bt, Obs, Obs, Cdn, Cdn], &[4, 5], true, &[Bt, Bt, Obs, Obs]),
        ("1:1:2", &sizes, &[Bt, Bt, Obs, Obs, Cdn, Cdn], &[4, 5], true, &[Bt, Cdn, Obs, Cdn]),
        // Never into bt or obs.
        ("1:1:1", &sizes, &[Bt, Bt, Obs, Obs, Cdn, Cdn], &[0, 1], true, &[Obs, Obs, Cdn, Cdn]),
        ("1:1:1", &sizes, &[Bt, Bt, Obs, Obs, Cdn, Cdn], &[2, 3], true, &[Bt, Bt, Cdn, Cdn]),
        // No CDN in the task, or no share for it.
        ("1:1:2", &sizes, &[Bt, Bt, Obs, Obs, Cdn, Cdn], &[4, 5], false, &[Bt, Bt, Obs, Obs]),
        ("1:1:0", &sizes, &[Bt, Bt, Bt, Obs, Obs, Obs], &[3, 4, 5], true, &[Bt, Bt, Bt]),
        ("1:0:0", &sizes, &[Bt; 6], &[1], true, &[Bt; 5]),
        // All local.
        ("1:1:1", &sizes, &[Bt, Bt, Obs, Obs, Cdn, Cdn], &[0, 1, 2, 3, 4, 5], true, &[]),
    ];
    for (r, sizes, methods, local, has_cdn, want) in table {
        let got = second_allocation(&whole(sizes, methods), |f| local.contains(&f), ratio(r), *has_cdn);
        let got: Vec<Method> = got.into_iter().map(|(_, m)| m).collect();
        assert_eq!(got, *want, "{r} local {local:?}");
    }
}

#[test]
fn ten_thousand_files() {
    let sizes: Vec<u64> = (0..10_000).map(|i| i * 7919 % 1_000_003).collect();
    let names = names(sizes.len());
    let files = with_sizes(&names, &sizes);
    let lists = allocate_lists(&files, ratio("3:2:1"), Order::SizeDescending);
    assert_eq!(lists.sizes.iter().sum::<u64>(), sizes.iter().sum::<u64>());
    assert_eq!(lists.paths.iter().map(Vec::len).sum::<usize>(), 10_000);
    let spans = allocate_split(&files, ratio("3:2:1"), 1 << 20);
    assert!(spans.len() <= 10_002);
}

fn any_ratio() -> impl Strategy<Value = Ratio> {
    (0u32..5, 0u32..5, 0u32..5).prop_filter_map("zero", |(a, b, c)| Ratio::new(a, b, c).ok())
}

fn any_sizes() -> impl Strategy<Value = Vec<u64>> {
    let size = prop_oneof![Just(0), 1u64..100, 1u64..100_000, Just(300_000_000_000)];
    proptest::collection::vec(size, 0..40)
}

/// |bytes − share| in bytes, rounded up.
fn miss(r: Ratio, m: Method, bytes: u64, total: u64) -> u128 {
    let sum: u128 = Method::ALL.iter().map(|&m| u128::from(r.share(m))).sum();
    (u128::from(bytes) * sum).abs_diff(u128::from(total) * u128::from(r.share(m))).div_ceil(sum)
}

proptest! {
    #[test]
    fn whole_files_keep_sums_order_and_shares(sizes in any_sizes(), r in any_ratio(), by_size: bool) {
        let names = names(sizes.len());
        let files = with_sizes(&names, &sizes);
        let order = if by_size { Order::SizeDescending } else { Order::Torrent };
        let lists = allocate_lists(&files, r, order);
        let total: u64 = sizes.iter().sum();
        let largest = sizes.iter().copied().max().unwrap_or(0);
        prop_assert_eq!(lists.sizes.iter().sum::<u64>(), total);
        let mut seen: Vec<&RelPath> = lists.paths.iter().flatten().collect();
        if !by_size {
            // Runs of the given order.
            prop_assert_eq!(&seen, &names.iter().collect::<Vec<_>>());
        }
        seen.sort();
        seen.dedup();
        prop_assert_eq!(seen.len(), sizes.len());
        for m in Method::ALL {
            if r.share(m) == 0 {
                prop_assert!(lists.paths[m as usize].is_empty());
            }
            prop_assert!(miss(r, m, lists.sizes[m as usize], total) <= u128::from(largest));
        }
    }

    #[test]
    fn split_files_cover_and_keep_shares(sizes in any_sizes(), r in any_ratio(), piece in prop_oneof![1u64..50, Just(1 << 14)]) {
        let names = names(sizes.len());
        let spans = allocate_split(&with_sizes(&names, &sizes), r, piece);
        let total: u64 = sizes.iter().sum();
        let mut starts = vec![0u64];
        for s in &sizes {
            starts.push(starts.last().unwrap() + s);
        }
        // In order, disjoint, covering; methods never go back.
        let (mut file, mut offset, mut last) = (0u32, 0u64, Method::Bt);
        for (i, (s, m)) in spans.iter().enumerate() {
            prop_assert_eq!((s.file, s.offset), (file, offset));
            prop_assert!(*m >= last, "the methods form runs");
            prop_assert!(r.share(*m) > 0);
            prop_assert!(s.len > 0 || sizes[file as usize] == 0);
            let end = starts[file as usize] + s.offset + s.len;
            if s.offset + s.len == sizes[file as usize] {
                file += 1;
                offset = 0;
            } else {
                offset += s.len;
                prop_assert_eq!(end % piece, 0, "cut on a piece border");
                prop_assert!(spans[i + 1].1 > *m, "a cut separates methods");
            }
            last = *m;
        }
        prop_assert_eq!(file as usize, sizes.len());
        for (m, bytes) in Method::ALL.into_iter().zip(sizes_by_method(&spans)) {
            // Each of the two ends of a run is less than a piece off.
            let ends = if m == Method::Obs { 2 } else { 1 };
            prop_assert!(miss(r, m, bytes, total) <= u128::from(piece * ends), "{} {}", m, bytes);
        }
    }

    #[test]
    fn second_allocation_moves_only_to_cdn(sizes in any_sizes(), r in any_ratio(), local in any::<u64>(), has_cdn: bool) {
        let names = names(sizes.len());
        let methods = allocate(&with_sizes(&names, &sizes), r, Order::Torrent);
        let spans = whole(&sizes, &methods);
        let is_local = |f: u32| local >> (f % 64) & 1 == 1;
        let after = second_allocation(&spans, is_local, r, has_cdn);
        let before: Vec<_> = spans.iter().filter(|(s, _)| !is_local(s.file)).copied().collect();
        prop_assert_eq!(before.len(), after.len());
        let (had, has) = (sizes_by_method(&before), sizes_by_method(&after));
        let left: u64 = had.iter().sum();
        prop_assert_eq!(left, has.iter().sum::<u64>());
        for ((a, was), (b, is)) in before.iter().zip(&after) {
            prop_assert_eq!(a, b);
            prop_assert!(was == is || (*is == Method::Cdn && has_cdn && r.share(Method::Cdn) > 0));
        }
        for m in [Method::Bt, Method::Obs] {
            // What gives stays at or above its share.
            prop_assert!(had[m as usize] == has[m as usize] || miss(r, m, has[m as usize], left) <= miss(r, m, had[m as usize], left));
        }
    }
}
