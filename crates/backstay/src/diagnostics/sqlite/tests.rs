use crate::diagnostics::Diagnostic;
use crate::diagnostics::tests::rendered;
use backstay_format::sqlite::{HeaderError, WalError};
use backstay_model::ByteLen;
use backstay_sqlite::{Holder, PinLoss, SqliteError};
use std::io;
use std::path::PathBuf;

#[test]
fn of_databases() {
    let path = || PathBuf::from("shop.db");
    let broken = || io::Error::other("input/output error");
    let holders = vec![Holder { pid: 17, command: "sqlite3".to_owned() }];
    let errors = vec![
        SqliteError::Engine { version: "3.40.0".to_owned(), snapshots: false },
        SqliteError::Missing { path: path() },
        SqliteError::NotAFile { path: path() },
        SqliteError::Denied { op: "open", path: path() },
        SqliteError::NotADatabase { path: path(), header: HeaderError::NotSqlite },
        SqliteError::Encrypted { path: path() },
        SqliteError::Malformed { path: path(), reason: "database disk image is malformed".to_owned() },
        SqliteError::Locked { path: path(), waited_ms: 30_000, holders },
        SqliteError::HotJournal { path: path() },
        SqliteError::ReadOnlyMount { path: path() },
        SqliteError::TooSlow { op: "check", path: path(), waited_ms: 30_000 },
        SqliteError::LogGrew { path: path(), grown: ByteLen::new(2 << 30), limit: ByteLen::new(1 << 30) },
        SqliteError::WrittenByOthers { path: path() },
        SqliteError::Replaced { path: path() },
        SqliteError::PinLost { path: path(), why: PinLoss::LogRestarted },
        SqliteError::Wal { path: path(), source: WalError::Io(broken()) },
        SqliteError::Io { op: "read", path: path(), source: broken() },
        SqliteError::Seen(broken()),
        SqliteError::Sqlite { op: "read", path: path(), code: 1, message: "no such table".to_owned() },
    ];
    insta::assert_snapshot!(rendered(errors.into_iter().map(Diagnostic::from).collect()));
}
