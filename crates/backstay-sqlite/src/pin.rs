//! Where the pages of a read transaction in WAL mode lie: in the main file alone, or also in the log.
//!
//! Owns that decision and its proof. It is a pure function of two values: `ours`, the wal-index header
//! SQLite copied when our transaction began (M frames, salts, checksum), and `live`, the shared
//! wal-index read afterwards.
//!
//! SQLite gives a reader one of two kinds of hold.
//!
//! - **Slot 0**: taken only when all M frames had been copied back. It stops every checkpoint, so the
//!   main file stands still and is our state. It does not stop a writer from restarting the log: live
//!   salts may change under us, and the frames on disk may become another generation's.
//! - **Slot 1 to 4**, with a mark of at most M: it stops a restart, so frames 1 to M stay on disk. A
//!   checkpoint may copy frames back up to the mark and not beyond, so a page of the main file changes
//!   only to the version that frame 1..=M has of it.
//!
//! From which follows:
//!
//! - no log, or M = 0: nothing is in the log for us, and both kinds of hold keep the main file still;
//! - live salts are not ours: only possible with slot 0, hence the main file alone;
//! - at least M frames are copied back and the salts are ours: the main file has all of them, and
//!   neither kind of hold lets later ones be copied;
//! - otherwise we hold slot 1 to 4, and the main file overlaid by frames 1 to M is our state however
//!   far a checkpoint gets meanwhile.
//!
//! The order of reading matters. A restart stores the new salts before it sets the number of frames
//! copied back to zero, so that number is read first: whoever sees the zero sees the new salts too,
//! and does not take a restarted log for one that was never copied back.
//!
//! When SQLite shows no shared wal-index (its `-shm` can only be read and nobody writes), it holds
//! slot 0 against checkpoints and reads the log itself; the overlay of M frames, each verified, is
//! what it sees.
//!
//! [`held`] is the tripwire at the end: a state of the live wal-index that a hold rules out proves
//! that the hold was lost, for instance because something in this process closed a descriptor.

use crate::ffi::{INDEX_HEADER_WORDS, LiveIndex};
use backstay_format::sqlite::{Checksum, Salts, WalPin};
use backstay_model::PageSize;
use backstay_model::number::BadPageSize;

#[cfg(test)]
mod tests;

const PAGE_SIZE_WORD: usize = 3;
const FRAMES_WORD: usize = 4;
const PAGE_COUNT_WORD: usize = 5;
const CHECKSUM_WORD: usize = 6;
const SALT_WORD: usize = 8;
const CHECKSUM_OF_HEADER_WORD: usize = 10;

/// What a wal-index header says, as far as we need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub frames: u32,
    /// Of the database, after frame `frames`.
    pub page_count: u32,
    raw_page_size: u32,
    pub salts: Salts,
    pub checksum: Checksum,
}

impl IndexHeader {
    pub(crate) fn of_words(words: &[u32; INDEX_HEADER_WORDS]) -> Self {
        let [_, _, size_low, size_high] = words[PAGE_SIZE_WORD].to_ne_bytes();
        let size = u32::from(u16::from_ne_bytes([size_low, size_high]));
        let mut salts = [0; 8];
        salts[..4].copy_from_slice(&words[SALT_WORD].to_ne_bytes());
        salts[4..].copy_from_slice(&words[SALT_WORD + 1].to_ne_bytes());
        Self {
            frames: words[FRAMES_WORD],
            page_count: words[PAGE_COUNT_WORD],
            // 65536 does not fit into the two bytes and sets the lowest bit instead.
            raw_page_size: (size & 0xfe00) | (size & 1) << 16,
            salts: Salts(salts),
            checksum: Checksum { first: words[CHECKSUM_WORD], second: words[CHECKSUM_WORD + 1] },
        }
    }

    /// What the log on disk must show for its first `frames` frames.
    pub(crate) fn wal_pin(&self) -> Result<WalPin, BadPageSize> {
        let page_size = PageSize::try_from(self.raw_page_size)?;
        Ok(WalPin { frames: self.frames, page_size, salts: self.salts, checksum: self.checksum })
    }
}

/// Whether a header was not being written while it was read: it ends with a checksum of what is before.
pub(crate) fn is_whole(words: &[u32; INDEX_HEADER_WORDS]) -> bool {
    let (summed, _) = words[..CHECKSUM_OF_HEADER_WORD].as_chunks::<2>();
    let (first, second) = summed.iter().fold((0_u32, 0_u32), |(first, second), [a, b]| {
        let first = first.wrapping_add(*a).wrapping_add(second);
        (first, second.wrapping_add(*b).wrapping_add(first))
    });
    words[CHECKSUM_OF_HEADER_WORD..] == [first, second]
}

/// The shared wal-index after our transaction began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub backfilled: u32,
    pub salts: Salts,
}

impl Live {
    pub(crate) fn of_index(index: &LiveIndex) -> Self {
        Self { backfilled: index.backfilled, salts: IndexHeader::of_words(&index.header).salts }
    }
}

/// Where to read pages from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    MainOnly,
    /// The main file, overlaid by the last versions in frames 1 to `frames`.
    Overlay {
        frames: u32,
    },
}

/// See the module's proof.
pub(crate) fn decide(ours: Option<&IndexHeader>, live: Option<&Live>) -> Placement {
    let Some(ours) = ours.filter(|ours| ours.frames > 0) else { return Placement::MainOnly };
    match live {
        Some(live) if live.salts != ours.salts => Placement::MainOnly,
        Some(live) if live.backfilled >= ours.frames => Placement::MainOnly,
        _ => Placement::Overlay { frames: ours.frames },
    }
}

/// Whether the live wal-index, read at the end, is still one that our hold allows.
pub(crate) fn held(ours: Option<&IndexHeader>, placement: Placement, live: Option<&Live>) -> bool {
    let (Some(ours), Some(live)) = (ours, live) else {
        // A log that was empty for us is held by slot 0 or a mark at 0: nothing may be copied back.
        return live.is_none_or(|live| live.backfilled == 0);
    };
    match (live.salts == ours.salts, placement) {
        (true, _) => live.backfilled <= ours.frames,
        // Restarted under slot 0, or begun for the first time: nothing may be copied back since.
        (false, Placement::MainOnly) => live.backfilled == 0,
        (false, Placement::Overlay { .. }) => false,
    }
}
