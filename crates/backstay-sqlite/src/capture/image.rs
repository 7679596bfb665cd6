//! A database on a medium that cannot be written, as it would be after recovery.
//!
//! SQLite opens such a file as immutable and then ignores its log. The pages of the log up to its last
//! commit are laid over the main file here, as recovery would; the schema is then read from a private
//! unlinked copy, because SQLite itself does not see them.

use super::CaptureOptions;
use crate::error::{At, SqliteError};
use crate::facts::{JournalMode, schema_digest};
use crate::look::{self, Look};
use crate::open::{Database, immutable_flags, immutable_uri};
use backstay_format::sqlite::WriteFormat;
use backstay_model::{ByteLen, Clock, Digest};
use rusqlite::Connection;
use std::io::Write;

const COPY_CHUNK: usize = 1024 * 1024;

/// Lays a log over the main file, where there is one.
pub(super) fn overlay(
    db: &Database,
    look: &mut Look,
    options: &CaptureOptions,
    clock: &dyn Clock,
) -> Result<(), SqliteError> {
    let (first, len) = crate::open::read_start(&db.conn()).at("read", &db.path)?;
    let Some((header, _)) = look::parse(&first, len, &db.path)? else { return Ok(()) };
    if header.format != WriteFormat::Wal {
        return Ok(());
    }
    let Some((log, page_count)) = look::image_log(&db.path, header.page_size)? else { return Ok(()) };
    look.view.log = Some(log);
    look.view.len = u64::from(page_count) * header.page_size.bytes();

    let mut head = [0; backstay_format::sqlite::header::HEADER_LEN];
    look.view.read(&db.conn, &db.path, 0, &mut head)?;
    let main = look::parse(&head, ByteLen::new(look.view.len), &db.path)?;
    let mut shape = look::main_shape(main, JournalMode::ReadOnlyImage);
    shape.page_count = page_count;
    let digest = digest_of_copy(db, look, options, clock)?;
    look.facts = shape.into_facts(digest, db.identity, db.path.clone());
    Ok(())
}

/// The schema digest of the overlaid image, asked of a copy that goes away with this call.
fn digest_of_copy(
    db: &Database,
    look: &Look,
    options: &CaptureOptions,
    clock: &dyn Clock,
) -> Result<Digest, SqliteError> {
    let dir = &options.spool_dir;
    let mut copy = tempfile::NamedTempFile::new_in(dir).at("spool to", dir)?;
    let mut chunk = vec![0; COPY_CHUNK];
    let mut offset = 0;
    while offset < look.view.len {
        let take = usize::try_from(look.view.len - offset).unwrap_or(COPY_CHUNK).min(COPY_CHUNK);
        let part = chunk.get_mut(..take).unwrap_or_default();
        look.view.read(&db.conn, &db.path, offset, part)?;
        copy.write_all(part).at("spool to", dir)?;
        offset += take as u64;
    }
    let conn = Connection::open_with_flags(immutable_uri(copy.path()), immutable_flags()).at("open", copy.path())?;
    schema_digest(&conn, &db.path, clock)
}
