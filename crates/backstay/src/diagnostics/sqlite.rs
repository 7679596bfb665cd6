//! Errors of the SQLite engine, with their remedies.

#[cfg(test)]
mod tests;

use super::Diagnostic;
use backstay_model::Kind;
use backstay_sqlite::SqliteError;

impl From<SqliteError> for Diagnostic {
    fn from(error: SqliteError) -> Self {
        hinted(Diagnostic::of(&error), &error)
    }
}

pub(super) fn hinted(plain: Diagnostic, error: &SqliteError) -> Diagnostic {
    match error {
        SqliteError::Engine { .. } => plain.hint("Install a build of Backstay with SQLite 3.51.3 or later."),
        SqliteError::Missing { .. } => plain
            .hint("Correct its `path`; `backstay config show --origin` says where it is set.")
            .hint("If it is lost, `backstay restore NAME` brings it back."),
        SqliteError::NotAFile { .. } => {
            plain.hint("Correct its `path`; `backstay config show --origin` says where it is set.")
        }
        SqliteError::Denied { path, .. } => {
            plain.hint(format!("Look at `ls -l {}`, and run the command as a user who may read it.", path.display()))
        }
        SqliteError::NotADatabase { .. } | SqliteError::Encrypted { .. } => plain
            .hint("Name the database file itself; `backstay init` without `--source` finds those nearby.")
            .hint("If it was one, run `backstay backup --as-is` to keep its bytes, then `backstay restore NAME`."),
        SqliteError::Malformed { .. } => plain
            .hint("Run `backstay backup --as-is` to keep its bytes as they are, quarantined.")
            .hint("Then run `backstay restore NAME latest-proven` to go back to the newest good state."),
        SqliteError::Locked { .. } => {
            plain.hint("Wait for the other program, or raise `capture.busy_timeout` in backstay.toml.")
        }
        SqliteError::HotJournal { .. } | SqliteError::ReadOnlyMount { .. } => of_writing(plain, error),
        SqliteError::NotWal { path } => plain
            .hint(format!("Run `sqlite3 {} 'PRAGMA journal_mode=WAL'` once, if its application agrees.", path.display()))
            .hint("Or protect it with `backstay backup` on a schedule."),
        SqliteError::TooSlow { .. } => {
            plain.hint("Look at the disk with `df` and `dmesg`, then run the same command again.")
        }
        SqliteError::LogGrew { .. } => plain
            .hint("Run the same command again at a quieter hour; the application could not reuse its log meanwhile.")
            .hint("Or let it grow further: `capture.log_growth_max` in backstay.toml, if the disk has the room."),
        SqliteError::Unlike { .. } => plain
            .hint("Stop what has it open, and run the same `backstay restore` without `--live`: the file is exchanged as a whole."),
        SqliteError::WrittenByOthers { path } => plain
            .because("it is no state of its source any more, and nothing of it is overwritten")
            .hint(format!("To keep what was written, remove {}-standby: it is an ordinary database then.", path.display()))
            .hint("To have a stand-by again, restore one to another file with `--to FILE --follow`."),
        SqliteError::Replaced { .. } | SqliteError::PinLost { .. } => {
            plain.hint("Run the same command again when nothing replaces the file or its log.")
        }
        SqliteError::Page { fault, .. } if fault.kind == Kind::Corrupt => plain
            .hint("Run `backstay check` to see which snapshots are affected, and ask another with `--at` or `--snapshot`.")
            .hint("A copy of the repository may have it whole: `--from-copy NAME`."),
        SqliteError::Page { fault, .. } if fault.kind == Kind::Cancelled => Diagnostic::cancelled(),
        SqliteError::Page { .. } => {
            plain.hint("Run the same command again; `--within` gives it more time, `limits.store_deadline` the store.")
        }
        SqliteError::NoTable { .. }
        | SqliteError::TableTaken { .. }
        | SqliteError::Stranger { .. }
        | SqliteError::TableDiffers { .. }
        | SqliteError::KeyDiffers { .. }
        | SqliteError::Conflict { .. }
        | SqliteError::References { .. }
        | SqliteError::Masked { .. }
        | SqliteError::Undo { .. }
        | SqliteError::NoQuestion
        | SqliteError::Query { .. } => of_rows(plain, error),
        SqliteError::Wal { .. } => plain
            .hint("Run the same command again; if it stays, `backstay backup --as-is` keeps the bytes as they are."),
        SqliteError::Io { .. } | SqliteError::Seen(_) => {
            plain.hint("Look at the disk with `df` and `dmesg`, then run the same command again.")
        }
        SqliteError::Sqlite { path, .. } => {
            plain.hint(format!("Run `sqlite3 {} 'PRAGMA integrity_check'` to see what SQLite says.", path.display()))
        }
    }
}

/// What questions, rows that come back and masked copies meet.
fn of_rows(plain: Diagnostic, error: &SqliteError) -> Diagnostic {
    match error {
        SqliteError::NoTable { .. } => plain.hint("See which there are: `backstay query SOURCE --shell`, then `.tables`."),
        SqliteError::TableTaken { .. } => plain.hint("Choose another name with `--as`."),
        SqliteError::Stranger { .. } => plain
            .hint("Name the database the rows belong to with `--into`, or write them to read first with `--sql FILE`."),
        SqliteError::TableDiffers { .. } | SqliteError::KeyDiffers { .. } => plain
            .hint("Bring the rows into a table of their own with `--as NAME`, or write them with `--sql FILE`."),
        SqliteError::Conflict { .. } => plain
            .hint("Say what to do with such rows: `--on-conflict skip` keeps today's, `--on-conflict replace` brings back what it was.")
            .hint("Look at them first with `--dry-run`."),
        SqliteError::References { .. } => plain
            .hint("Bring back the rows they refer to first, with the same command and the other `--table`."),
        SqliteError::Masked { .. } => plain
            .hint("Give the column it names another rule in the profile: `keep`, another `fake`, a `fixed` value that fits.")
            .hint("Nothing was written under the name that was asked for."),
        SqliteError::Undo { .. } => plain.hint("Make room beside the database; the statements that undo it are written there."),
        SqliteError::NoQuestion => plain.hint("Ask one SELECT; the past cannot be written. `--shell` takes several."),
        SqliteError::Query { .. } => plain.hint("See what there is: `SELECT sql FROM sqlite_schema`, or `.schema` in `--shell`."),
        _ => plain,
    }
}

/// What is in the way of opening a database that only others may write.
fn of_writing(plain: Diagnostic, error: &SqliteError) -> Diagnostic {
    match error {
        SqliteError::HotJournal { path } => plain.hint(format!(
            "Open {} once with a program that may write it, such as `sqlite3`, so that it is rolled back.",
            path.display()
        )),
        SqliteError::ReadOnlyMount { path } => plain.hint(format!(
            "Mount the folder of {} writable here (with Docker, `-v` without `:ro`); Backstay never writes to the database.",
            path.display()
        )),
        _ => plain,
    }
}
