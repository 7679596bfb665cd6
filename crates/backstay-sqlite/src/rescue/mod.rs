//! Rescue: the rows of a damaged database that can still be read, in a new one.
//!
//! Owns the new database and the account of what is in it. The damaged files are only ever read, as
//! bytes: SQLite never sees them. What cannot be put where it belongs goes into a table of its own,
//! `lost_and_found`, and is never passed off as a good row.
//!
//! The new file is private to the caller, who names and syncs it: a crash leaves a file under a private
//! name. Schema statements come from the damaged file: they run untrusted, one at a time, and bounded.

mod lost;
mod pages;
mod report;
mod schema;
mod table;
mod write;

pub use pages::FilePages;
pub use report::{Refused, RescueReport, TableRescue};

use crate::error::SqliteError;
use backstay_format::sqlite::btree::TreeKind;
use backstay_format::sqlite::guess::Likeness;
use backstay_format::sqlite::walk::{PageSource, Row, RowState, Walker};
use std::collections::HashMap;
use std::path::Path;

/// What is rescued, and how.
pub struct Rescue<'a> {
    pub pages: &'a dyn PageSource,
    pub likeness: Likeness,
    /// A private file nobody else has open, empty.
    pub to: &'a Path,
    /// Whether pages of the free list are looked at too: rows that were deleted.
    pub deleted: bool,
    /// Whether somebody wants it to stop.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// Walks every tree there is and writes what it finds.
pub fn rescue(job: &Rescue<'_>) -> Result<RescueReport, SqliteError> {
    let mut walker = Walker::new(job.pages, job.likeness.shape);
    let mut report = RescueReport::begin(job.pages.pages(), &job.likeness);
    let schema = schema::read(&mut walker, job.likeness.encoding);
    report.note_schema(&schema);
    let mut new = write::NewDatabase::create(job.to, &job.likeness)?;
    let made = new.make_tables(&schema.objects, &mut report)?;
    let mut next = Progress { job, seen: 0 };
    for table in &made {
        let (kind, root) = (table.kind(), table.root);
        let mut into = table::Filling::begin(&mut new, table);
        let met = walker.tree(root, kind, &mut |row| next.row(&mut into, row))?;
        report.tables.push(into.finish(&met));
        report.note_met(&met);
    }
    for index in schema.objects.iter().filter(|object| object.is_index()) {
        let met = walker.tree::<SqliteError>(index.root, TreeKind::Index, &mut |_| Ok(()))?;
        report.note_index(&index.name, &met);
    }
    walker.free_list(job.likeness.free_list);
    report.free_pages = walker.free.count();
    if job.deleted {
        walker.free = Default::default();
    }
    orphans(&mut walker, &mut new, &made, &mut report, &mut next)?;
    new.finish(&schema.objects, &mut report)?;
    report.end(&new);
    report.replaced = std::mem::take(&mut walker.replaced).into_iter().collect();
    Ok(report)
}

/// Pages nothing leads to: into the table they can only belong to, or among what was found.
fn orphans(
    walker: &mut Walker<'_>,
    new: &mut write::NewDatabase,
    made: &[table::Table],
    report: &mut RescueReport,
    next: &mut Progress<'_>,
) -> Result<(), SqliteError> {
    // By number of stored columns: the only table that has so many, if it has lost pages.
    let mut only: HashMap<usize, Option<&table::Table>> = HashMap::new();
    for table in made.iter().filter(|table| table.kind() == TreeKind::Table) {
        only.entry(table.stored).and_modify(|found| *found = None).or_insert(Some(table));
    }
    for orphan in walker.orphans() {
        report.orphan_pages += 1;
        let met = walker.orphan(&orphan, &mut |row| {
            next.check()?;
            let fits = |table: &&table::Table| {
                orphan.kind == TreeKind::Table
                    && row.state == RowState::Whole
                    && report.is_damaged(&table.name)
                    && table.fits(row)
            };
            let home = only.get(&row.values.len()).copied().flatten().filter(fits);
            let is_home = match home {
                Some(table) => new.insert(table, row)?,
                None => false,
            };
            match home {
                Some(table) if is_home => report.guessed(&table.name),
                _ => new.lose(lost::Lost { top: orphan.top, row, why: lost::Why::Orphan })?,
            }
            Ok(())
        })?;
        report.note_orphan(&met);
    }
    Ok(())
}

/// Asks now and then whether to go on.
struct Progress<'a> {
    job: &'a Rescue<'a>,
    seen: u64,
}

impl Progress<'_> {
    fn row(&mut self, into: &mut table::Filling<'_>, row: &Row<'_>) -> Result<(), SqliteError> {
        self.check()?;
        into.row(row)
    }

    fn check(&mut self) -> Result<(), SqliteError> {
        self.seen += 1;
        if self.seen % 1024 == 1 && (self.job.cancelled)() {
            return Err(SqliteError::Sqlite {
                op: "rescue into",
                path: self.job.to.to_owned(),
                code: rusqlite::ffi::SQLITE_INTERRUPT,
                message: "interrupted".to_owned(),
            });
        }
        Ok(())
    }
}
