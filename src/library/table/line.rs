//! One line of the table, as `sha1sum` writes and reads it.
//!
//! `<40 hex><two blanks><absolute path>`. A name with a backslash, line feed or carriage return has these as `\\`, `\n`,
//! `\r`, and its line begins with a backslash. What is read may be a person's or another program's: blanks at the start,
//! any number of blanks or tabs between, `*` before the path, upper-case digits and CRLF are all understood. As paths are
//! absolute, none of this can be mistaken for a part of a name.

use crate::model::ids::Sha1;
use std::io::{self, BufRead};

/// Longest line that is read: the longest path, each byte escaped, and the digest.
const MAX_LINE: usize = 2 * MAX_PATH + 64;
/// Longest path that Linux knows.
const MAX_PATH: usize = 4096;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A file and its digest.
    File {
        sha1: Sha1,
        path: String,
    },
    Blank,
    /// Not understood.
    Odd,
}

/// Appends a line.
pub fn write_line(out: &mut Vec<u8>, sha1: &Sha1, path: &str) {
    let escaped = path.contains(['\\', '\n', '\r']);
    if escaped {
        out.push(b'\\');
    }
    out.extend_from_slice(hex::encode(sha1.0).as_bytes());
    out.extend_from_slice(b"  ");
    if escaped {
        let path = path.replace('\\', r"\\").replace('\n', r"\n").replace('\r', r"\r");
        out.extend_from_slice(path.as_bytes());
    } else {
        out.extend_from_slice(path.as_bytes());
    }
    out.push(b'\n');
}

/// Reads a line without its line feed.
pub fn parse_line(line: &[u8]) -> Line {
    let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
    if line.is_empty() {
        return Line::Blank;
    }
    parse_file(line).unwrap_or(Line::Odd)
}

fn parse_file(line: &[u8]) -> Option<Line> {
    let line = std::str::from_utf8(line).ok()?;
    let (escaped, line) = line.strip_prefix('\\').map_or((false, line), |rest| (true, rest));
    let (digest, rest) = line.split_at_checked(40)?;
    let sha1 = Sha1::from_hex(digest).ok()?;
    let path = rest.trim_start_matches([' ', '\t']);
    if path.len() == rest.len() {
        return None;
    }
    let path = path.strip_prefix('*').unwrap_or(path);
    let path = if escaped { unescape(path)? } else { path.to_owned() };
    let fits = path.starts_with('/') && path.len() <= MAX_PATH && !path.contains('\0');
    fits.then_some(Line::File { sha1, path })
}

fn unescape(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            c => c,
        });
    }
    Some(out)
}

/// The lines of a file, one at a time. A line that is too long is odd, and is not kept in memory.
pub struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    first: bool,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), first: true }
    }

    /// The next line; `None` at the end.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        self.buffer.clear();
        let (mut any, mut too_long) = (false, false);
        loop {
            let data = match self.reader.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if data.is_empty() {
                if !any {
                    return Ok(None);
                }
                break;
            }
            any = true;
            let end = data.iter().position(|b| *b == b'\n');
            let part = &data[..end.unwrap_or(data.len())];
            too_long |= self.buffer.len() + part.len() > MAX_LINE;
            if !too_long {
                self.buffer.extend_from_slice(part);
            }
            let used = end.map_or(data.len(), |at| at + 1);
            self.reader.consume(used);
            if end.is_some() {
                break;
            }
        }
        let line = match std::mem::take(&mut self.first) {
            true => self.buffer.strip_prefix(BOM).unwrap_or(&self.buffer),
            false => &self.buffer,
        };
        Ok(Some(if too_long { Line::Odd } else { parse_line(line) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    const HEX: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

    fn file(path: &str) -> Line {
        Line::File { sha1: Sha1::from_hex(HEX).unwrap(), path: path.into() }
    }

    fn all(text: &[u8]) -> Vec<Line> {
        // A small buffer, so that lines cross its borders.
        let mut lines = Lines::new(BufReader::with_capacity(7, text));
        std::iter::from_fn(|| lines.next_line().unwrap()).collect()
    }

    #[test]
    fn lines_are_those_of_sha1sum() {
        for (path, line) in [
            ("/data/dcp/film/a.mxf", format!("{HEX}  /data/dcp/film/a.mxf\n")),
            ("/名称/文件 a", format!("{HEX}  /名称/文件 a\n")),
            ("/a\\b", format!("\\{HEX}  /a\\\\b\n")),
            ("/a\nb\r", format!("\\{HEX}  /a\\nb\\r\n")),
        ] {
            let mut out = Vec::new();
            write_line(&mut out, &Sha1::from_hex(HEX).unwrap(), path);
            assert_eq!(String::from_utf8(out).unwrap(), line);
            assert_eq!(all(line.as_bytes()), [file(path)]);
        }
    }

    #[test]
    fn other_hands_are_understood() {
        let upper = HEX.to_uppercase();
        for line in [
            format!("{HEX} */a b"),
            format!("{upper}  /a b"),
            format!("{HEX}\t/a b"),
            format!("  {HEX}     /a b"),
            format!("{HEX}  /a b\r"),
            format!("\\{HEX} */a b"),
        ] {
            assert_eq!(parse_line(line.as_bytes()), file("/a b"), "{line:?}");
        }
        // A backslash is a letter where the line does not say otherwise.
        assert_eq!(parse_line(format!("{HEX}  /a\\n").as_bytes()), file("/a\\n"));
        for blank in ["", " ", "\t \r", "\r"] {
            assert_eq!(parse_line(blank.as_bytes()), Line::Blank, "{blank:?}");
        }
        for odd in [
            "# comment".to_owned(),
            HEX.to_owned(),
            format!("{HEX}  "),
            format!("{HEX}  relative/a"),
            format!("{HEX}/a"),
            format!("{}  /a", &HEX[1..]),
            format!("g{}  /a", &HEX[1..]),
            format!("\\{HEX}  /a\\x"),
            format!("\\{HEX}  /a\\"),
            format!("{HEX}  /a\0b"),
            format!("{HEX}  /{}", "a".repeat(MAX_PATH)),
            "é".repeat(30),
        ] {
            assert_eq!(parse_line(odd.as_bytes()), Line::Odd, "{odd:?}");
        }
        assert_eq!(parse_line(b"\xff\xfe"), Line::Odd);
    }

    #[test]
    fn files_are_read_in_bounded_lines() {
        let text = format!("\u{feff}{HEX}  /first\r\n\n{}\n{HEX}  /last", "x".repeat(3 * MAX_LINE));
        assert_eq!(all(text.as_bytes()), [file("/first"), Line::Blank, Line::Odd, file("/last")]);
        let mut lines = Lines::new(BufReader::new(text.as_bytes()));
        while lines.next_line().unwrap().is_some() {}
        assert!(lines.buffer.capacity() <= 2 * MAX_LINE, "{}", lines.buffer.capacity());
        assert_eq!(all(b""), []);
        assert_eq!(all("\u{feff}".as_bytes()), [Line::Blank]);
        assert_eq!(all(&vec![0; 100_000]), [Line::Odd]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(path in "/[^\0]{0,60}", odd in "/[\\\\\n\r */a]{0,20}", digest in any::<[u8; 20]>()) {
            let mut out = Vec::new();
            for path in [&path, &odd] {
                write_line(&mut out, &Sha1(digest), path);
            }
            let sha1 = Sha1(digest);
            prop_assert_eq!(all(&out), [Line::File { sha1, path }, Line::File { sha1, path: odd }]);
        }

        #[test]
        fn any_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let lines = all(&text).len();
            prop_assert!(lines <= text.len() + 1);
        }
    }
}
