//! Whether an application waits in a checkpoint of its own.
//!
//! One that does not give up at the first mark it finds (FULL, RESTART, TRUNCATE) has two locks meanwhile: that of
//! checkpoints and that of writers. A writer has only the one, and the checkpoint after a commit only the other. They are
//! looked for in the kernel's list of locks: a try at the locks themselves would refuse whoever takes them in that moment, and
//! a descriptor of our own on the wal-index would give back all our locks when it is closed.
//!
//! What the list does not show (another container, a system without it) is nobody: whoever asks must come to an end without.

use super::Tail;
use crate::open::sibling;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

const LOCKS: &str = "/proc/locks";
/// More than this is not looked through.
const LOCKS_MAX: u64 = 1 << 20;
/// Where the locks of writers and of checkpoints are in the wal-index.
const WRITERS: u64 = 120;
const CHECKPOINTS: u64 = 121;

impl Tail {
    /// Whether somebody, other than by a commit, has writers and checkpoints kept out.
    pub fn is_waited_for(&self) -> bool {
        let Ok(index) = std::fs::metadata(sibling(&self.path, "-shm")) else { return false };
        let mut locks = String::new();
        let read = std::fs::File::open(LOCKS).and_then(|list| list.take(LOCKS_MAX).read_to_string(&mut locks));
        read.is_ok() && shows_a_wait(&locks, index.ino())
    }
}

/// Whether one process has both locks of this file alone. Which device a file is on the list says in another way than the file
/// system of a container does: the number of the file is enough.
fn shows_a_wait(locks: &str, file: u64) -> bool {
    let owned = |at: u64| locks.lines().filter_map(move |line| owner(line, file, at));
    owned(WRITERS).any(|writer| owned(CHECKPOINTS).any(|copier| copier == writer))
}

/// Who has a byte of a file alone, if that is what this line says.
fn owner(line: &str, file: u64, at: u64) -> Option<&str> {
    let mut words = line.split_ascii_whitespace().skip(1);
    // Who only waits for a lock has an arrow here.
    let ("POSIX", _, "WRITE", owner) = (words.next()?, words.next()?, words.next()?, words.next()?) else {
        return None;
    };
    let of = words.next()?.rsplit(':').next()?.parse::<u64>().ok()?;
    let (first, last) = (words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().unwrap_or(u64::MAX));
    (of == file && (first..=last).contains(&at)).then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_both_locks_waits_in_a_checkpoint() {
        let line = |how: &str, who: u32, file: u64, first: u64, last: &str| {
            format!("1: {how} {who} fe:00:{file} {first} {last}\n")
        };
        let alone = "POSIX  ADVISORY  WRITE";
        let commits = line(alone, 7, 30, 120, "120");
        let copies = line(alone, 7, 30, 121, "121");
        assert!(!shows_a_wait(&commits, 30) && !shows_a_wait(&copies, 30));
        assert!(shows_a_wait(&format!("{commits}{copies}"), 30));
        assert!(shows_a_wait(&line(alone, 7, 30, 120, "121"), 30), "the kernel makes one of two beside each other");
        assert!(shows_a_wait(&line(alone, 7, 30, 0, "EOF"), 30));
        assert!(!shows_a_wait(&format!("{commits}{copies}"), 31), "of another file");
        let other = line(alone, 8, 30, 121, "121");
        assert!(!shows_a_wait(&format!("{commits}{other}"), 30), "one commits and another copies back");
        for how in ["-> POSIX  ADVISORY  WRITE", "POSIX  ADVISORY  READ", "FLOCK  ADVISORY  WRITE"] {
            assert!(!shows_a_wait(&line(how, 7, 30, 120, "121"), 30), "{how}");
        }
        assert!(!shows_a_wait("1: POSIX\n\n2:\n: : : : : : : :\n", 30), "what is no list");
    }
}
