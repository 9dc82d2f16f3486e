//! Sizes, rates and percents as people and the protocol write them.

/// `200M`, `8G`, `1.5Gi`, `4096`: bytes. K, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a size: write 200M, 8G or 4096"))?;
    let unit = unit.trim().trim_end_matches(['b', 'B']).to_ascii_lowercase();
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) => (letter, 1024f64),
        None => (unit.as_str(), 1000f64),
    };
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(format!("{text:?} is not a size: the unit is one of K, M, G, T, Ki, Mi, Gi, Ti")),
    };
    let bytes = number * base.powi(power);
    if (0.0..9e18).contains(&bytes) { Ok(bytes as u64) } else { Err(format!("{text:?} is too large")) }
}

/// `3072 B/s`, `10 KB/s`, `5 K/s`: bytes per second as the protocol writes them (powers of 1024, section 5).
pub fn rate(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let factor = match unit.trim_end_matches("/s").trim_end_matches('B') {
        "" => 1,
        "K" => 1024,
        "M" => 1024 * 1024,
        "G" => 1024 * 1024 * 1024,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// `22.000%` as 22.0.
pub fn percent(text: &str) -> Option<f64> {
    text.trim().trim_end_matches('%').parse().ok().filter(|p: &f64| p.is_finite())
}

/// A percent of a total, in bytes.
pub fn part(percent: f64, total: u64) -> u64 {
    // The API rounds to three decimals, so the result is exact to a hundred-thousandth of the total.
    ((percent / 100.0 * total as f64).round() as u64).min(total)
}

/// Bytes for people, in powers of 1000: `1.50 GB`.
pub fn human(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, want) in [
            ("200M", 200_000_000),
            ("8G", 8_000_000_000),
            ("1.5Gi", 1_610_612_736),
            ("4096", 4096),
            ("1 kB", 1000),
            ("2GiB", 1 << 31),
        ] {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for text in ["", "M", "-1", "1X", "1.2.3M", "99999999T", "名"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn protocol_texts_are_read() {
        assert_eq!(rate("3072 B/s"), Some(3072));
        assert_eq!(rate("10 KB/s"), Some(10 * 1024));
        assert_eq!(rate("3 M/s"), Some(3 << 20));
        assert_eq!((rate(""), rate("x B/s"), rate("1 parsec")), (None, None, None));
        assert_eq!(percent("99.084%"), Some(99.084));
        assert_eq!((percent(""), percent("NaN%")), (None, None));
        assert_eq!(part(25.0, 1000), 250);
        assert_eq!(part(100.001, 1000), 1000);
        assert_eq!(part(-3.0, 1000), 0);
    }
}
