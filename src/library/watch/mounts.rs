//! Which file systems the library lies on, and how they can be watched.

use std::fs::File;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's word that something was mounted or unmounted, wherever.
pub struct Changes(Option<AsyncFd<File>>);

impl Changes {
    /// From now on.
    pub fn new() -> Self {
        let file = File::open("/proc/self/mountinfo");
        // SAFETY: the descriptor is owned by the AsyncFd, and nobody replaces or closes it.
        Self(file.and_then(|file| unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY).map_err(Into::into) }).ok())
    }

    /// Never comes where the kernel says nothing.
    pub async fn next(&self) {
        match &self.0 {
            Some(file) => match file.ready(Interest::PRIORITY).await {
                Ok(mut seen) => seen.clear_ready(),
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

/// A file system, or the part of one, below the library's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted; the library's root, for the one that holds it.
    pub root: PathBuf,
    /// As the kernel names it: `ext4`, `xfs`, `fuse.obsfs`, …
    pub kind: String,
    /// Number of this mounting, and of the device: another disk at the same place, or the same one again, is another mount.
    pub id: String,
}

impl Mount {
    /// Whether others write there and this kernel does not see it.
    pub fn is_remote(&self) -> bool {
        const REMOTE: [&str; 12] =
            ["nfs", "cifs", "smb", "ceph", "glusterfs", "lustre", "9p", "afs", "gfs2", "ocfs2", "davfs", "virtiofs"];
        self.kind.starts_with("fuse") && self.kind != "fuseblk" || REMOTE.iter().any(|r| self.kind.starts_with(r))
    }
}

/// The file systems at and below `base`, which is first.
pub fn mounts(base: &Path) -> std::io::Result<Vec<Mount>> {
    let real = base.canonicalize()?;
    Ok(mounts_of(&std::fs::read_to_string("/proc/self/mountinfo")?, base, &real))
}

/// `real` is the base without symbolic links, as the kernel tells it.
fn mounts_of(mountinfo: &str, base: &Path, real: &Path) -> Vec<Mount> {
    let mut holder = (PathBuf::new(), "unknown".to_owned(), String::new());
    let mut below = Vec::new();
    for line in mountinfo.lines() {
        // "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw": the fifth field, and the first behind the dash.
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let fields: Vec<&str> = left.split(' ').collect();
        let (Some(at), Some(kind)) = (fields.get(4), right.split(' ').next()) else { continue };
        let id = format!("{} {}", fields[0], fields[2]);
        let at = PathBuf::from(unescaped(at));
        if real.starts_with(&at) {
            // A later mount hides an earlier one at the same place.
            if at.as_os_str().len() >= holder.0.as_os_str().len() {
                holder = (at, kind.to_owned(), id);
            }
        } else if let Ok(rel) = at.strip_prefix(real) {
            below.push(Mount { root: base.join(rel), kind: kind.to_owned(), id });
        }
    }
    below.sort_by(|a, b| a.root.cmp(&b.root));
    // Of mounts at one place the last one counts.
    below.reverse();
    below.dedup_by(|a, b| a.root == b.root);
    below.push(Mount { root: base.to_owned(), kind: holder.1, id: holder.2 });
    below.reverse();
    below
}

/// Blanks, tabs, line ends and backslashes are written as three octal digits.
fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        let code = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
30 22 8:17 / /data rw,noatime shared:1 - xfs /dev/sdb1 rw
31 30 0:50 / /data/dcp/cfec\\040001 rw - fuse.obsfs obsfs rw
32 30 8:33 / /data/dcp/b rw - ext4 /dev/sdc1 rw
33 32 8:49 / /data/dcp/b rw - xfs /dev/sdd1 rw
34 22 8:50 / /database rw - ext4 /dev/sde1 rw
";

    #[test]
    fn every_file_system_of_the_library_is_found() {
        let got = mounts_of(INFO, Path::new("/library"), Path::new("/data/dcp"));
        let told: Vec<_> = got.iter().map(|m| (m.root.to_str().unwrap(), m.kind.as_str(), m.is_remote())).collect();
        assert_eq!(told, [("/library", "xfs", false), ("/library/b", "xfs", false), ("/library/cfec 001", "fuse.obsfs", true)]);
        let got = mounts_of(INFO, Path::new("/srv"), Path::new("/srv"));
        assert_eq!(got, [Mount { root: "/srv".into(), kind: "ext4".into(), id: "22 8:1".into() }]);
        assert_eq!(mounts_of("", Path::new("/srv"), Path::new("/srv"))[0].kind, "unknown");
    }

    #[test]
    fn this_machine_can_be_asked() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mounts(dir.path()).unwrap()[0].root, dir.path());
        assert!(mounts(&dir.path().join("absent")).is_err());
    }
}
