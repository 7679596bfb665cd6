//! One look at a database inside a read transaction: where its pages are, and what its header says.
//!
//! Owns the way from a transaction that has begun to a [`View`] whose bytes are that transaction's
//! state. Takes no lock itself; without the transaction the result means nothing.

use crate::error::{At, PinLoss, SqliteError};
use crate::facts::{EMPTY_PAGE_SIZE, JournalMode, Shape, SourceFacts, schema_digest};
use crate::ffi;
use crate::open::{Database, Medium, read_start, sibling};
use crate::pin::{IndexHeader, Live, Placement, decide, held};
use crate::view::{Log, View};
use backstay_format::sqlite::{DatabaseHeader, FrameMap, HeaderError, WalError, WalPin, WriteFormat, wal};
use backstay_model::{ByteLen, Clock, PageSize};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// How much of a log is read at once.
pub(crate) const LOG_BUFFER: usize = 256 * 1024;

/// What a transaction shows.
pub(crate) struct Look {
    pub view: View,
    pub facts: SourceFacts,
    /// The wal-index header of the transaction, where there is one.
    pub index: Option<IndexHeader>,
    pub placement: Placement,
}

impl Look {
    /// Looks through a transaction that [`Database::begin`] began.
    pub(crate) fn take(db: &Database, clock: &dyn Clock) -> Result<Self, SqliteError> {
        let main = {
            let conn = db.conn();
            let (first, len) = read_start(&conn).at("read", &db.path)?;
            parse(&first, len, &db.path)?
        };
        match main {
            Some((header, _)) if header.format == WriteFormat::Wal && db.medium == Medium::Live => {
                Self::wal(db, header, clock)
            }
            main => Self::main_file(db, main, clock),
        }
    }

    fn main_file(
        db: &Database,
        main: Option<(DatabaseHeader, ByteLen)>,
        clock: &dyn Clock,
    ) -> Result<Self, SqliteError> {
        let digest = schema_digest(&db.conn(), &db.path, clock)?;
        let journal = if db.medium == Medium::ReadOnly { JournalMode::ReadOnlyImage } else { JournalMode::Rollback };
        let shape = main_shape(main, journal);
        let view = View { page_size: shape.page_size, len: shape.len(), log: None };
        let facts = shape.into_facts(digest, db.identity, db.path.clone());
        Ok(Self { view, facts, index: None, placement: Placement::MainOnly })
    }

    fn wal(db: &Database, main: DatabaseHeader, clock: &dyn Clock) -> Result<Self, SqliteError> {
        let (index, live, main_len) = {
            let conn = db.conn();
            let index = ffi::snapshot(&conn).at("read the position of", &db.path)?;
            let live = ffi::live_index(&conn).at("read the wal-index of", &db.path)?;
            let len = ffi::main_len(&conn).at("read", &db.path)?;
            (index.map(|words| IndexHeader::of_words(&words)), live.map(|live| Live::of_index(&live)), len)
        };
        let placement = decide(index.as_ref(), live.as_ref());
        let log = match (placement, &index) {
            (Placement::Overlay { .. }, Some(index)) => Some(pinned_log(&db.path, index)?),
            _ => None,
        };
        let mut view = View { page_size: main.page_size, len: u64::MAX, log };
        let header = {
            let mut head = [0; backstay_format::sqlite::header::HEADER_LEN];
            view.read(&db.conn, &db.path, 0, &mut head)?;
            DatabaseHeader::parse(&head, ByteLen::new(main_len)).map_err(|header| malformed(&db.path, &header))?
        };
        let committed = index.map(|index| index.page_count).filter(|count| *count > 0);
        let mut shape = main_shape(Some((header, ByteLen::new(main_len))), JournalMode::Wal);
        shape.page_count = committed.unwrap_or(shape.page_count);
        view.len = shape.len();
        let digest = schema_digest(&db.conn(), &db.path, clock)?;
        let facts = shape.into_facts(digest, db.identity, db.path.clone());
        Ok(Self { view, facts, index, placement })
    }

    /// Whether the state this look described was kept until now. Must still be in the transaction.
    pub(crate) fn verify(&self, db: &Database) -> Result<(), SqliteError> {
        db.still_there()?;
        let lost = |why| Err(SqliteError::PinLost { path: db.path.clone(), why });
        if let Some(log) = &self.view.log {
            if !log.is_same_generation().at("read", &log.path)? {
                return lost(PinLoss::LogRestarted);
            }
            if !is_at(&log.file, &log.path) {
                return lost(PinLoss::LogReplaced);
            }
        }
        if self.facts.journal == JournalMode::Wal {
            let live = ffi::live_index(&db.conn()).at("read the wal-index of", &db.path)?;
            if !held(self.index.as_ref(), self.placement, live.map(|live| Live::of_index(&live)).as_ref()) {
                return lost(PinLoss::MarkIgnored);
            }
        }
        Ok(())
    }
}

/// Parses the start of a main file; `None` when the file has no byte, which is a database without a page.
pub(crate) fn parse(first: &[u8], len: ByteLen, path: &Path) -> Result<Option<(DatabaseHeader, ByteLen)>, SqliteError> {
    if len.get() == 0 {
        return Ok(None);
    }
    match DatabaseHeader::parse(first, len) {
        Ok(header) => Ok(Some((header, len))),
        Err(HeaderError::LooksEncrypted) => Err(SqliteError::Encrypted { path: path.to_owned() }),
        Err(header @ (HeaderError::NotSqlite | HeaderError::Truncated(_))) => {
            Err(SqliteError::NotADatabase { path: path.to_owned(), header })
        }
        Err(header) => Err(malformed(path, &header)),
    }
}

fn malformed(path: &Path, header: &HeaderError) -> SqliteError {
    SqliteError::Malformed { path: path.to_owned(), reason: header.to_string() }
}

/// The shape a main file gives on its own.
pub(crate) fn main_shape(main: Option<(DatabaseHeader, ByteLen)>, journal: JournalMode) -> Shape {
    let Some((header, len)) = main else {
        let page_size = PageSize::try_from(EMPTY_PAGE_SIZE).expect("SQLite's default page size is a valid one");
        return Shape { header: None, page_size, page_count: 0, journal };
    };
    let by_len = u32::try_from(len.get().div_ceil(header.page_size.bytes())).unwrap_or(u32::MAX);
    let page_count = header.trusted_page_count().unwrap_or(by_len);
    Shape { page_size: header.page_size, header: Some(header), page_count, journal }
}

/// Whether the descriptor still is the file at the path.
fn is_at(file: &File, path: &Path) -> bool {
    use crate::facts::FileIdentity;
    let of = |found: std::io::Result<std::fs::Metadata>| found.ok().map(|found| FileIdentity::of_metadata(&found));
    of(file.metadata()).is_some_and(|open| Some(open) == of(std::fs::metadata(path)))
}

/// Opens the log and proves that its first frames are those of the transaction.
pub(crate) fn pinned_log(database: &Path, index: &IndexHeader) -> Result<Log, SqliteError> {
    let path = sibling(database, "-wal");
    let pin: WalPin =
        index.wal_pin().map_err(|bad| SqliteError::Malformed { path: database.to_owned(), reason: bad.to_string() })?;
    let file = File::open(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => SqliteError::PinLost { path: database.to_owned(), why: PinLoss::LogReplaced },
        _ => SqliteError::Io { op: "open", path: path.clone(), source },
    })?;
    let map: FrameMap = wal::map_pinned(BufReader::with_capacity(LOG_BUFFER, &file), &pin).map_err(|source| {
        let lost = |why| SqliteError::PinLost { path: database.to_owned(), why };
        match source {
            WalError::OtherGeneration => lost(PinLoss::LogRestarted),
            WalError::OtherContent(_) | WalError::Truncated(_) => lost(PinLoss::LogReplaced),
            source => SqliteError::Wal { path: database.to_owned(), source },
        }
    })?;
    Ok(Log { path, file, map, salts: pin.salts, frames: pin.frames })
}

/// The log of a database nobody can write, up to its last commit; and whether a rollback journal is in
/// the way.
pub(crate) fn image_log(database: &Path, page_size: PageSize) -> Result<Option<(Log, u32)>, SqliteError> {
    let path = sibling(database, "-wal");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).at("open", &path),
    };
    let found = wal::map_committed(BufReader::with_capacity(LOG_BUFFER, &file))
        .map_err(|source| SqliteError::Wal { path: database.to_owned(), source })?;
    Ok(found.filter(|found| found.header.page_size == page_size).map(|found| {
        let log = Log { path, file, map: found.map, salts: found.header.salts, frames: found.frames };
        (log, found.page_count)
    }))
}

/// Refuses a database whose last transaction has yet to be rolled back.
pub(crate) fn refuse_hot_journal(database: &Path) -> Result<(), SqliteError> {
    let journal = sibling(database, "-journal");
    let mut magic = [0; 8];
    match File::open(&journal).and_then(|mut file| file.read_exact(&mut magic)) {
        // The magic of a journal in force; one that was finished by zeroing or cutting has it not.
        Ok(()) if magic == [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7] => {
            Err(SqliteError::HotJournal { path: database.to_owned() })
        }
        Err(e) if e.kind() != std::io::ErrorKind::NotFound && e.kind() != std::io::ErrorKind::UnexpectedEof => {
            Err(e).at("open", &journal)
        }
        _ => Ok(()),
    }
}
