//! A log object's records: the last frame of every log object, which says which commits it holds and
//! which pages each of them wrote. The frames before it hold the pages' images, in the order of the
//! records.
//!
//! Where an image lies follows from the records and the frames' raw lengths alone: images follow one
//! another, none is cut by the end of a frame.

use crate::cursor::{Cursor, Writer};
use crate::layout::{commit, log};
use crate::{Corrupt, FramePlace};
use backstay_model::{Digest, Moment, PageSize, Tx};

const WHAT: &str = "a log object's records";
/// Bytes of one page number.
const NUMBER: usize = 4;

/// Which part of its commit a record is. A commit counts only when its last part is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// All of it.
    Whole = 0,
    /// The first of several.
    First = 1,
    /// Neither the first nor the last.
    Middle = 2,
    Last = 3,
}

impl Part {
    const ALL: [Part; 4] = [Self::Whole, Self::First, Self::Middle, Self::Last];

    /// Whether the commit is complete with this part.
    pub const fn completes(self) -> bool {
        matches!(self, Part::Whole | Part::Last)
    }

    /// Whether the commit begins with this part.
    pub const fn begins(self) -> bool {
        matches!(self, Part::Whole | Part::First)
    }
}

/// One commit, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which of the object's spans it belongs to.
    pub span: u16,
    pub part: Part,
    pub page_size: PageSize,
    /// Of the database after this commit.
    pub page_count: u32,
    pub tx: Tx,
    pub time: Moment,
    /// Of this record after the one before it, see `CommitHasher`.
    pub digest: Digest,
    /// Ascending; each within `page_count`.
    pub pages: Vec<u32>,
}

impl Record {
    /// The length of its entry.
    pub fn encoded_len(pages: usize) -> usize {
        commit::LEN + pages * NUMBER
    }

    fn check(&self) -> Result<(), Corrupt> {
        let broken = |rule| Err(Corrupt::Rule { what: WHAT, rule });
        if !self.pages.is_sorted_by(|a, b| a < b) {
            return broken("the pages of a commit ascend");
        }
        if self.pages.first() == Some(&0) || self.pages.last().is_some_and(|last| *last > self.page_count) {
            return broken("every page lies within the database after the commit");
        }
        Ok(())
    }
}

pub fn encode(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    Writer::begin(&mut out, log::LEN).u32(log::RECORDS, records.len() as u32);
    for record in records {
        let mut w = Writer::begin(&mut out, commit::LEN);
        w.u16(commit::SPAN, record.span).u8(commit::PART, record.part as u8);
        w.u32(commit::PAGES, record.pages.len() as u32).u32(commit::PAGE_SIZE, record.page_size.get());
        w.u32(commit::PAGE_COUNT, record.page_count).u64(commit::TX, record.tx.get());
        w.u64(commit::TIME, record.time.as_millis().cast_unsigned()).put(commit::DIGEST, record.digest.as_bytes());
        for page in &record.pages {
            out.extend_from_slice(&page.to_le_bytes());
        }
    }
    out
}

pub fn parse(bytes: &[u8]) -> Result<Vec<Record>, Corrupt> {
    let mut cursor = Cursor::new(WHAT, bytes);
    let head = cursor.fixed(log::LEN)?;
    head.zero(log::ZERO)?;
    let count = head.u32(log::RECORDS)? as usize;
    if count > cursor.rest() / commit::LEN {
        return Err(Corrupt::Truncated { what: WHAT });
    }
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        let record = parse_record(&mut cursor)?;
        record.check()?;
        records.push(record);
    }
    cursor.end()?;
    Ok(records)
}

fn parse_record(cursor: &mut Cursor<'_>) -> Result<Record, Corrupt> {
    let broken = |rule| Corrupt::Rule { what: WHAT, rule };
    let row = cursor.fixed(commit::LEN)?;
    row.zero(commit::ZERO)?;
    let part = row.u8(commit::PART)?;
    let time = row.u64(commit::TIME)?.cast_signed();
    let numbers = cursor.take((row.u32(commit::PAGES)? as usize).saturating_mul(NUMBER))?;
    let (numbers, _) = numbers.as_chunks::<NUMBER>();
    Ok(Record {
        span: row.u16(commit::SPAN)?,
        part: Part::ALL.into_iter().find(|p| *p as u8 == part).ok_or(broken("a part is one of four"))?,
        page_size: PageSize::try_from(row.u32(commit::PAGE_SIZE)?)
            .map_err(|_| broken("a page size is a power of two from 512 to 65536"))?,
        page_count: row.u32(commit::PAGE_COUNT)?,
        tx: Tx::new(row.u64(commit::TX)?),
        time: Moment::from_millis(time).ok_or(broken("a time is one there can be"))?,
        digest: Digest::from_bytes(row.array(commit::DIGEST)?),
        pages: numbers.iter().map(|number| u32::from_le_bytes(*number)).collect(),
    })
}

/// Checks that the images of `records` fill the frames before the last exactly, and gives the page
/// sizes in the order the images lie in, frame by frame.
pub fn layout_of(records: &[Record], frames: &[FramePlace]) -> Result<Vec<Vec<PageSize>>, Corrupt> {
    let broken = || Corrupt::Rule { what: WHAT, rule: "the images of their pages fill the frames before them" };
    let (_, images) = frames.split_last().ok_or(Corrupt::Truncated { what: WHAT })?;
    let mut sizes = records.iter().flat_map(|r| r.pages.iter().map(|_| r.page_size)).peekable();
    let mut out = Vec::with_capacity(images.len());
    for frame in images {
        let mut inside = Vec::new();
        let mut left = frame.raw;
        while left > 0 {
            let size = sizes.next().ok_or_else(broken)?;
            left = left.checked_sub(size.get()).ok_or_else(broken)?;
            inside.push(size);
        }
        if inside.is_empty() {
            return Err(broken());
        }
        out.push(inside);
    }
    if sizes.peek().is_some() { Err(broken()) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FingerprintKey;
    use backstay_model::FingerprintKeyId;

    const PAGE: &str = include_str!("../../../docs/formats/log.md");

    fn record(part: Part, pages: Vec<u32>) -> Record {
        Record {
            span: 0,
            part,
            page_size: PageSize::try_from(4096).expect("a page size"),
            page_count: 9,
            tx: Tx::new(7),
            time: Moment::from_millis(1_795_000_000_123).expect("in range"),
            digest: Digest::from_bytes([0xd1; 32]),
            pages,
        }
    }

    #[test]
    fn records_round_trip_and_refuse_every_truncation() {
        let records = vec![record(Part::Last, vec![1, 2, 9]), record(Part::Whole, vec![])];
        let bytes = encode(&records);
        assert_eq!(parse(&bytes), Ok(records.clone()));
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let sum: usize = records.iter().map(|r| Record::encoded_len(r.pages.len())).sum();
        assert_eq!(bytes.len(), log::LEN + sum);
    }

    #[test]
    fn records_that_no_follower_writes_are_refused() {
        let one = |change: fn(&mut Record)| {
            let mut changed = record(Part::Whole, vec![1, 2, 9]);
            change(&mut changed);
            parse(&encode(&[changed]))
        };
        assert!(one(|_| {}).is_ok());
        let changes: [fn(&mut Record); 4] =
            [|r| r.pages = vec![2, 1], |r| r.pages = vec![3, 3], |r| r.pages = vec![0, 1], |r| r.page_count = 8];
        for change in changes {
            assert!(matches!(one(change), Err(Corrupt::Rule { .. })));
        }
        let mut bytes = encode(&[record(Part::Whole, vec![1])]);
        bytes[log::LEN + commit::PART.start] = 4;
        assert!(matches!(parse(&bytes), Err(Corrupt::Rule { .. })));
        let mut many = vec![0; log::LEN];
        many[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(parse(&many), Err(Corrupt::Truncated { what: WHAT }));
    }

    #[test]
    fn images_fill_their_frames_exactly() {
        let frame = |raw| FramePlace { frame: 0, offset: 0, stored: 1, raw };
        let records = [record(Part::Whole, vec![1, 2, 9])];
        let lens = |raws: &[u32]| {
            let frames: Vec<FramePlace> = raws.iter().map(|raw| frame(*raw)).collect();
            layout_of(&records, &frames).map(|frames| frames.iter().map(Vec::len).collect::<Vec<_>>())
        };
        assert_eq!(lens(&[8192, 4096, 0]), Ok(vec![2, 1]));
        assert_eq!(lens(&[12_288, 0]), Ok(vec![3]));
        for bad in [&[8192, 0][..], &[8192, 4095, 0], &[12_288, 0, 0], &[12_288, 4096, 0], &[]] {
            assert!(lens(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_spec_page_names_the_context_and_the_value_it_gives() {
        let key = FingerprintKey::new(FingerprintKeyId::from_bytes([1; 16]), [0x22; 32]);
        let digest = |previous: u8, last: &[u8]| {
            let record = record(Part::Whole, vec![1, 2]);
            let mut hasher = key.commits().record(&Digest::from_bytes([previous; 32]), &record);
            hasher.page(1, &[0; 4096]);
            hasher.page(2, last);
            hasher.finish()
        };
        let row = format!("| {} |", digest(0xab, &[1; 4096]));
        assert!(PAGE.contains(&row), "docs/formats/log.md lacks: {row}");
        assert!(PAGE.contains("`backstay v1 log commit digest`"));
        assert_ne!(digest(0xab, &[1; 4096]), digest(0xac, &[1; 4096]));
        assert_ne!(digest(0xab, &[1; 4096]), digest(0xab, &[2; 4096]));
    }
}
