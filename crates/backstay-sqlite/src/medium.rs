//! Whether anybody at all could write to a file, as far as this machine can tell.
//!
//! A mount that is read-only for us says little: a bind mount (`-v /data:/data:ro`) shows files that
//! others write through another mount of the same file system. Only the file system itself, read-only
//! for everybody, makes locks meaningless. In doubt a medium is live, which costs a lock and no truth.

use crate::error::{At, SqliteError};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Whether anybody could write to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Live,
    /// A file system that is read-only for everybody: locks mean nothing and `-shm` cannot be made.
    ReadOnly,
}

/// File systems whose files others write, whatever this machine may do: servers, hosts, layers, programs.
const WRITTEN_ELSEWHERE: [&str; 15] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "gfs2",
    "glusterfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "overlay",
    "smb3",
    "virtiofs",
    "smbfs",
];

/// More of the table of mounts is not read.
const TABLE_MAX: u64 = 16 << 20;

impl Medium {
    /// Of the file at a path without symbolic links. The file is not opened.
    pub(crate) fn of_path(path: &Path) -> Result<Self, SqliteError> {
        if !is_mounted_read_only(path)? {
            return Ok(Medium::Live);
        }
        let table = read_table().unwrap_or_default();
        Ok(decide(&table, mount_id(path), path))
    }
}

/// Whether our own way to the file is read-only.
pub(crate) fn is_mounted_read_only(path: &Path) -> Result<bool, SqliteError> {
    let found = rustix::fs::statvfs(path).map_err(std::io::Error::from).at("look at the file system of", path)?;
    Ok(found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

fn read_table() -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut table = Vec::new();
    std::fs::File::open("/proc/self/mountinfo")?.take(TABLE_MAX).read_to_end(&mut table)?;
    Ok(table)
}

/// The number of the mount the path leads through, where the kernel tells.
fn mount_id(path: &Path) -> Option<u64> {
    use rustix::fs::{AtFlags, CWD, StatxFlags};
    let found = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// One line of the table of mounts.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    point: PathBuf,
    kind: String,
    /// What the file system itself says, for every mount of it.
    whole_is_read_only: bool,
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - KIND SOURCE SUPER-OPTIONS`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = fields.nth(3)?;
    let mut behind = fields.skip_while(|field| *field != b"-");
    behind.next()?;
    let kind = String::from_utf8_lossy(behind.next()?).into_owned();
    let options = behind.last()?;
    let whole_is_read_only = options.split(|byte| *byte == b',').any(|option| option == b"ro");
    Some(Mount { id, point: unescape(point), kind, whole_is_read_only })
}

/// The kernel writes blanks, tabs, line feeds and backslashes as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|d| first == b'\\' && d.iter().all(|d| (b'0'..=b'7').contains(d)));
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(code.unwrap_or(first));
        rest = if code.is_some() { behind.get(3..).unwrap_or_default() } else { behind };
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// What the table says of a file that our own mount shows read-only.
fn decide(table: &[u8], id: Option<u64>, path: &Path) -> Medium {
    let mounts: Vec<Mount> = table.split(|byte| *byte == b'\n').filter_map(parse).collect();
    let holder = match id {
        Some(id) => mounts.iter().find(|mount| mount.id == id),
        // Of two mounts on one point the later lies on top.
        None => mounts
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count()),
    };
    match holder {
        Some(mount) if mount.whole_is_read_only && !is_written_elsewhere(&mount.kind) => Medium::ReadOnly,
        _ => Medium::Live,
    }
}

fn is_written_elsewhere(kind: &str) -> bool {
    kind.starts_with("fuse") || WRITTEN_ELSEWHERE.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
        40 22 8:1 /srv/data /data ro,relatime shared:1 master:2 - ext4 /dev/sda1 rw,errors=remount-ro\n\
        41 22 7:0 / /mnt/the\\040snapshot ro,relatime - squashfs /dev/loop0 ro,errors=continue\n\
        42 22 0:50 / /share ro - nfs4 host:/export ro,vers=4.2\n\
        43 22 0:51 / /host ro - fuse.sshfs me@host: ro,user_id=0\n\
        44 22 8:2 / /data/old rw,relatime - xfs /dev/sdb1 ro,attr2\n\
        45 44 8:1 /x /data/old rw - ext4 /dev/sda1 rw\n\
        not a line\n\
        46 22 8:3 / /cut ro";

    /// A backup beside an application looks at its files through a read-only bind mount. It was taken
    /// for a dead medium, read without locks, and a mix of two states was stored as whole.
    #[test]
    fn only_a_file_system_that_is_read_only_for_everybody_is_dead() {
        let cases = [
            ("/srv/data/app.db", None, Medium::Live),
            ("/data/app.db", None, Medium::Live),
            ("/data/app.db", Some(40), Medium::Live),
            ("/mnt/the snapshot/app.db", None, Medium::ReadOnly),
            ("/mnt/the snapshot/app.db", Some(41), Medium::ReadOnly),
            ("/mnt/the snapshot/app.db", Some(999), Medium::Live),
            ("/share/app.db", None, Medium::Live),
            ("/host/app.db", None, Medium::Live),
            ("/data/old/app.db", Some(44), Medium::ReadOnly),
            ("/data/old/app.db", None, Medium::Live),
            ("/cut/app.db", None, Medium::Live),
        ];
        for (path, id, want) in cases {
            assert_eq!(decide(TABLE, id, Path::new(path)), want, "{path} {id:?}");
        }
        assert_eq!(decide(b"", Some(1), Path::new("/a")), Medium::Live);
        // "errors=remount-ro" is not "ro", and mount options before the dash are those of one mount.
        assert!(!parse(b"1 1 8:1 / /a ro - ext4 /dev/a rw,errors=remount-ro").expect("a line").whole_is_read_only);
    }

    #[test]
    fn the_table_of_this_machine_can_be_read_and_names_the_mount_of_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = std::fs::canonicalize(dir.path()).expect("there");
        assert_eq!(Medium::of_path(&path).expect("looked"), Medium::Live);
        let table = read_table().expect("the table of mounts");
        let id = mount_id(&path).expect("the kernel is 5.8 or later");
        let known = table.split(|byte| *byte == b'\n').filter_map(parse).any(|mount| mount.id == id);
        assert!(known, "{id}: {}", String::from_utf8_lossy(&table));
    }

    #[test]
    fn escaped_names_come_back() {
        for (field, want) in
            [("/a\\040b\\134c", "/a b\\c"), ("/a\\9", "/a\\9"), ("/a\\04", "/a\\04"), ("\\400", "\\400")]
        {
            assert_eq!(unescape(field.as_bytes()), Path::new(want));
        }
    }
}
