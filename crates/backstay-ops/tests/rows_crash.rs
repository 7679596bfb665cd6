//! Rows brought back into a living database, stopped at every effect on the store and the disk, with the power lost on
//! top: the database is as it was, or as it was asked for, and what undoes it is there whenever it was changed.

mod rig;
mod world;

use backstay_model::catalog::Target;
use backstay_ops::OpsError;
use backstay_ops::env::blocking;
use backstay_ops::query::{Asker, CACHE_USUAL, Reading};
use backstay_ops::rows::{self, BackRequest};
use backstay_sqlite::rows::{BringRequest, OnConflict};
use rig::{Before, Ended, Making, Process, Run, crash, image};
use rusqlite::Connection;
use std::path::PathBuf;
use std::time::Duration;
use world::source;

const LOSS: &str = "UPDATE t SET x = 'lost' WHERE id % 3 = 0; DELETE FROM t WHERE id BETWEEN 100 AND 140;
    INSERT INTO t(id, x) VALUES (9000, 'came later')";

async fn bring(process: &Process, before: &Before) -> Result<(), OpsError> {
    let asker = Asker::new(&process.vault, Reading { cache: CACHE_USUAL });
    let past = asker.open(&source(), &Target::Id(before.known[0].id.to_string())).await?;
    let rows = BringRequest {
        table: "t".into(),
        condition: None,
        rename: None,
        on_conflict: OnConflict::Replace,
        fire_triggers: false,
    };
    let request = BackRequest { rows, live: process.db(), source: process.db(), busy: Duration::from_secs(5) };
    blocking(|| {
        let plan = rows::look(&asker, &past, &request)?;
        rows::into_live(&process.vault.env, &asker, &plan, &request).map(drop)
    })
}

/// Files of statements beside the database.
fn undos(run: &Run) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(run.dir()).expect("read folder").flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "sql")).collect()
}

async fn stopped_anywhere(journal: &str) {
    let making = Making::database(journal).repository().await.backed_up().await;
    making.sql(LOSS);
    let before = making.done();
    // What was there then, and what came later.
    let brought = {
        let folder = rig::scratch();
        let path = folder.path().join("wanted.db");
        std::fs::write(&path, &before.known[0].bytes).expect("write");
        let conn = Connection::open(&path).expect("open");
        conn.execute_batch("INSERT INTO t(id, x) VALUES (9000, 'came later')").expect("sql");
        drop(conn);
        world::rows_of(&path)
    };
    assert!(brought != before.rows);
    let act = async |process: &Process| bring(process, &before).await;
    let what = format!("rows brought back, {journal}");
    let sweep = crash(&what, &before, act, async |run: &Run, ended: &Ended| {
        let rows = image(&run.db()).1;
        let undos = undos(run);
        if rows == before.rows {
            assert!(!ended.done, "what was told is there");
        } else {
            assert!(rows == brought, "all of it or nothing");
            assert_eq!(undos.len(), 1, "what undoes it is there");
        }
        // Whatever was left undoes what was done, and harms nothing where nothing was.
        let conn = Connection::open(run.db()).expect("open");
        for undo in undos {
            // Words to the shell are none of SQLite's.
            let text = std::fs::read_to_string(&undo).expect("the statements");
            let statements: String =
                text.lines().filter(|line| !line.starts_with('.')).map(|line| format!("{line}\n")).collect();
            let undone = conn.execute_batch(&statements);
            assert!(undone.is_ok() || rows == before.rows, "{undone:?}");
            if !conn.is_autocommit() {
                conn.execute_batch("ROLLBACK").expect("it was cut short");
            }
            std::fs::remove_file(undo).expect("removed");
        }
        drop(conn);
        assert!(image(&run.db()).1 == before.rows, "undone");
        let process = Process::open(run.dir(), run.next(&backstay_testkit::effects::Effects::unstopped()), None).await;
        bring(&process.expect("open"), &before).await.expect("once more");
        assert!(image(&run.db()).1 == brought);
    })
    .await;
    sweep.assert_stopped_at(&["store get range", "disk create", "disk write", "disk sync", "disk sync folder"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_brought_into_a_database_with_a_log_stopped_anywhere() {
    stopped_anywhere("WAL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_brought_into_a_database_with_a_journal_stopped_anywhere() {
    stopped_anywhere("DELETE").await;
}
