//! How rates, percents and remaining times are written (protocol section 5). Integer arithmetic throughout: a float
//! would round 99.9996 % up to 100 %, and 100 % has a meaning of its own here: in place and verified.

/// `10 KB/s`: at most 9999 B in bytes, then 1024s, rounded down.
pub fn rate_text(bytes_per_second: u64) -> String {
    const LIMIT: u64 = 9999;
    if bytes_per_second <= LIMIT {
        format!("{bytes_per_second} B/s")
    } else if bytes_per_second <= LIMIT * 1024 {
        format!("{} KB/s", bytes_per_second / 1024)
    } else {
        format!("{} MB/s", bytes_per_second / (1024 * 1024))
    }
}

/// Thousandths of a percent of the whole.
const WHOLE: u128 = 100_000;

fn thousandths(part: u64, total: u64) -> u128 {
    if total == 0 {
        return 0;
    }
    let (part, total) = (u128::from(part.min(total)), u128::from(total));
    (part * WHOLE * 2 + total) / (total * 2)
}

fn thousandths_text(t: u128) -> String {
    format!("{}.{:03}%", t / 1000, t % 1000)
}

/// `99.084%`: a part of the total, rounded to three decimals, never above 100.
pub fn percent_text(part: u64, total: u64) -> String {
    thousandths_text(thousandths(part, total))
}

/// `totalpercent`: 100 % only when the package is in place and verified (`complete`), else at most 99.999 %.
pub fn total_percent_text(done: u64, total: u64, complete: bool) -> String {
    thousandths_text(if complete { WHOLE } else { thousandths(done, total).min(WHOLE - 1) })
}

/// Parts that add up to the total, as percents that add up to 100.000 % (largest remainders are rounded up). When the
/// parts do not add up to the total each is rounded by itself.
pub fn share_texts<const N: usize>(parts: [u64; N], total: u64) -> [String; N] {
    let sum: u128 = parts.iter().map(|&p| u128::from(p)).sum();
    let whole = u128::from(total);
    if total == 0 || sum != whole {
        return parts.map(|p| percent_text(p, total));
    }
    let mut floors = parts.map(|p| u128::from(p) * WHOLE / whole);
    let mut left = WHOLE - floors.iter().sum::<u128>();
    let mut by_remainder: [usize; N] = std::array::from_fn(|i| i);
    by_remainder.sort_by_key(|&i| std::cmp::Reverse(u128::from(parts[i]) * WHOLE % whole));
    for i in by_remainder {
        if left == 0 {
            break;
        }
        floors[i] += 1;
        left -= 1;
    }
    floors.map(thousandths_text)
}

/// `uncompleted 66%` of an upload uses whole numbers: rounded down, at most 99 before the end.
pub fn upload_percent(done: u64, total: u64) -> u8 {
    if total == 0 {
        return 0;
    }
    (u128::from(done) * 100 / u128::from(total)).min(99) as u8
}

/// `ecompletedtime`: minutes, rounded up; 0 when done; -1 while the rate is 0 (nothing moves, or a window is closed).
pub fn eta_minutes(remaining: u64, bytes_per_second: u64, complete: bool) -> i64 {
    if complete {
        return 0;
    }
    if bytes_per_second == 0 {
        return -1;
    }
    let per_minute = u128::from(bytes_per_second) * 60;
    i64::try_from(u128::from(remaining).div_ceil(per_minute)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates() {
        for (rate, text) in [
            (0, "0 B/s"),
            (3072, "3072 B/s"),
            (9999, "9999 B/s"),
            (10_000, "9 KB/s"),
            (10_240, "10 KB/s"),
            (9999 * 1024, "9999 KB/s"),
            (9999 * 1024 + 1, "9 MB/s"),
            (104_857_600, "100 MB/s"),
        ] {
            assert_eq!(rate_text(rate), text, "{rate}");
        }
    }

    #[test]
    fn percents() {
        assert_eq!(percent_text(933_597_669, 942_225_235), "99.084%");
        assert_eq!(percent_text(8_627_566, 942_225_235), "0.916%");
        assert_eq!(percent_text(0, 5), "0.000%");
        assert_eq!(percent_text(5, 5), "100.000%");
        assert_eq!(percent_text(0, 0), "0.000%");
        assert_eq!(total_percent_text(5, 5, false), "99.999%");
        assert_eq!(total_percent_text(u64::MAX - 1, u64::MAX, false), "99.999%");
        assert_eq!(total_percent_text(5, 5, true), "100.000%");
        assert_eq!(upload_percent(2, 3), 66);
        assert_eq!(upload_percent(3, 3), 99);
        assert_eq!(share_texts([1, 1, 1, 0], 3), ["33.334%", "33.333%", "33.333%", "0.000%"]);
    }

    #[test]
    fn remaining_minutes() {
        for (left, rate, complete, want) in [
            (100, 0, false, -1),
            (0, 0, true, 0),
            (60, 1, false, 1),
            (61, 1, false, 2),
            (0, 5, false, 0),
            (u64::MAX, 1, false, (u64::MAX / 60 + 1) as i64),
        ] {
            assert_eq!(eta_minutes(left, rate, complete), want);
        }
    }

    proptest! {
        #[test]
        fn shares_add_up(parts in any::<[u32; 4]>()) {
            let parts = parts.map(u64::from);
            let total: u64 = parts.iter().sum();
            prop_assume!(total > 0);
            let sum: u64 = share_texts(parts, total)
                .iter()
                .map(|t| t.trim_end_matches('%').replace('.', "").parse::<u64>().unwrap())
                .sum();
            prop_assert_eq!(sum, 100_000);
        }
    }
}
