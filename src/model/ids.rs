//! Names and digests from outside. These types are the only way to build a path or compare a hash from outside data:
//! nothing absolute, no `..`, no empty part, NUL, backslash, control character or reserved name gets through.

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a name was refused. The text names the value (shortened) and the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad {what} {value:?}: {rule}")]
pub struct NameError {
    pub what: &'static str,
    pub value: String,
    pub rule: &'static str,
}

fn refuse(what: &'static str, value: &str, rule: &'static str) -> NameError {
    NameError { what, value: value.chars().take(120).collect(), rule }
}

/// One path component: the rules every name shares.
fn check_part(what: &'static str, s: &str) -> Result<(), NameError> {
    let rule = if s.is_empty() {
        "it is empty"
    } else if s == "." || s == ".." {
        "'.' and '..' are not names"
    } else if s.len() > 255 {
        "it is longer than 255 bytes"
    } else if s.contains('/') || s.contains('\\') {
        "it contains a path separator"
    } else if s.chars().any(char::is_control) {
        "it contains a control character"
    } else {
        return Ok(());
    };
    Err(refuse(what, s, rule))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn parse(s: &str) -> Result<Self, NameError> {
                check_part($what, s)?;
                if s.starts_with('.') {
                    return Err(refuse($what, s, "it starts with a dot"));
                }
                Self::extra(s)?;
                Ok(Self(s.to_owned()))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                Self::parse(&s)
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0
            }
        }
    };
}

name_type!(
    /// A task file's own name, e.g. `cfec-001-xiaofang.task.json`: with the role, the key of a task.
    TaskName, "task file name"
);
name_type!(
    /// The package's directory name (`name` in the task file).
    PackageName, "package name"
);
name_type!(
    /// `<centre>-<institution>`, e.g. `cfec-001`: directory and bucket name.
    BaseSubdir, "basesubdir"
);

impl TaskName {
    /// What every task file's name ends with.
    pub const SUFFIX: &'static str = ".task.json";
    fn extra(s: &str) -> Result<(), NameError> {
        // Files beside a task file have longer names: `.NAME.part`, `NAME.errhistory`.
        if s.len() > 220 { Err(refuse("task file name", s, "it is longer than 220 bytes")) } else { Ok(()) }
    }
    /// From a path as clients give it: the last component.
    pub fn from_path(path: &str) -> Result<Self, NameError> {
        Self::parse(path.rsplit('/').next().unwrap_or(path))
    }
    /// Without `.task.json`.
    pub fn stem(&self) -> &str {
        self.0.strip_suffix(Self::SUFFIX).unwrap_or(&self.0)
    }
}

impl PackageName {
    fn extra(s: &str) -> Result<(), NameError> {
        // These would collide with the files that lie beside a package.
        for suffix in [".torrent", ".finished", ".task.json", ".part"] {
            if s.ends_with(suffix) {
                return Err(refuse(
                    "package name",
                    s,
                    "it ends like a file of the service (.torrent, .finished, .task.json, .part)",
                ));
            }
        }
        if s.len() > 200 {
            return Err(refuse("package name", s, "it is longer than 200 bytes"));
        }
        Ok(())
    }
}

impl BaseSubdir {
    fn extra(s: &str) -> Result<(), NameError> {
        if s.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.') && s.len() <= 63 {
            Ok(())
        } else {
            Err(refuse("basesubdir", s, "letters, digits, '-', '_' and '.' only, at most 63"))
        }
    }
}

/// A package file's path relative to the package: `/` separated, every part a plain name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(String);

impl RelPath {
    pub fn parse(s: &str) -> Result<Self, NameError> {
        const WHAT: &str = "file path";
        if s.is_empty() {
            return Err(refuse(WHAT, s, "it is empty"));
        }
        if s.starts_with('/') {
            return Err(refuse(WHAT, s, "it is absolute"));
        }
        if s.len() > 1024 {
            return Err(refuse(WHAT, s, "it is longer than 1024 bytes"));
        }
        for part in s.split('/') {
            check_part(WHAT, part)?;
        }
        Ok(Self(s.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
    /// Below `root`.
    pub fn under(&self, root: &Path) -> PathBuf {
        root.join(&self.0)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl TryFrom<String> for RelPath {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        Self::parse(&s)
    }
}
impl From<RelPath> for String {
    fn from(p: RelPath) -> String {
        p.0
    }
}

/// A SHA-1 digest: lower-case hex in task files and the database, base64 in a PKL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha1(pub [u8; 20]);

impl Sha1 {
    pub fn from_hex(s: &str) -> Result<Self, NameError> {
        let mut out = [0; 20];
        hex::decode_to_slice(s, &mut out).map_err(|_| refuse("hash", s, "it is not 40 hexadecimal digits"))?;
        Ok(Self(out))
    }
    /// As a PKL writes it (28 characters).
    pub fn from_base64(s: &str) -> Result<Self, NameError> {
        let bad = || refuse("hash", s, "it is not the base64 form of 20 bytes");
        let bytes = base64::engine::general_purpose::STANDARD.decode(s.trim()).map_err(|_| bad())?;
        Ok(Self(bytes.try_into().map_err(|_| bad())?))
    }
    pub fn to_base64(self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.0)
    }
}

impl fmt::Display for Sha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl fmt::Debug for Sha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha1({self})")
    }
}
impl TryFrom<String> for Sha1 {
    type Error = NameError;
    fn try_from(s: String) -> Result<Self, NameError> {
        Self::from_hex(&s)
    }
}
impl From<Sha1> for String {
    fn from(h: Sha1) -> String {
        h.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_refused() {
        for bad in ["", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\0b", "a\\b", "a/\u{7}", "a/."] {
            assert!(RelPath::parse(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "sub/dir/file.mxf", ".hidden", "名称/文件.mxf", "a b"] {
            assert!(RelPath::parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn names_have_no_separators_or_service_endings() {
        for bad in ["", ".", "..", "a/b", "a\\b", ".x", "film.torrent", "film.finished", "a\nb"] {
            assert!(PackageName::parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(BaseSubdir::parse("cfec-001").is_ok());
        assert!(BaseSubdir::parse("cfec 001").is_err());
        assert_eq!(TaskName::from_path("/data/x/cfec-001-a.task.json").unwrap().stem(), "cfec-001-a");
        assert!(TaskName::from_path("/data/x/").is_err());
    }

    #[test]
    fn digests_read_both_forms() {
        let h = Sha1::from_hex("BB53810cdfea87878d27457f807eb4574706f2e4").unwrap();
        assert_eq!(h.to_string(), "bb53810cdfea87878d27457f807eb4574706f2e4");
        assert_eq!(Sha1::from_base64(&h.to_base64()).unwrap(), h);
        assert!(Sha1::from_hex("bb").is_err());
        assert!(Sha1::from_base64("AAAA").is_err());
    }
}
