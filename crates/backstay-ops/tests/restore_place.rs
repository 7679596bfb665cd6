//! Where a restored file goes when the place is not as quiet as it should be.
//!
//! What these tests are here for:
//! - A live database behind a symbolic link was restored beside the link: on another file system the
//!   rename failed, after the old log had been removed. A failure after the log was moved gives it back.
//! - A program that made its database between the plan and the restore to a new file had its log
//!   renamed away under it.
//! - Root restoring into a folder that a program writes to gave away, through a link the program put
//!   where the private file had been, whatever that link led to.
//! - A restore asked SQLite's quick check together with the smoke queries and did not listen.
//! - Private copies whose process died in a container were never removed, because its number was soon
//!   another process's.

mod world;

use backstay_model::catalog::Target;
use backstay_ops::disk::{Disk, DiskFile, OsDisk};
use backstay_ops::prove::ProofOutcome;
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_ops::{OpsError, State};
use rusqlite::Connection;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use world::{World, rows_of, source};

type Hook = Box<dyn Fn(&'static str, &Path, &Path) -> io::Result<()> + Send + Sync>;

/// The machine's disk, with somebody else at work before a rename or a link.
struct Meddled(Hook);

impl Disk for Meddled {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.create(path, mode)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.0)("rename", from, to)?;
        OsDisk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.0)("link", from, to)?;
        OsDisk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_dir(path)
    }
}

fn meddle(world: &mut World, hook: impl Fn(&'static str, &Path, &Path) -> io::Result<()> + Send + Sync + 'static) {
    let disk: Arc<dyn Disk> = Arc::new(Meddled(Box::new(hook)));
    let root = world.dir().join("state");
    world.vault.state = State::open(disk.clone(), &root, world.vault.repo.id()).expect("state");
    world.vault.env.disk = disk;
}

async fn filled() -> World {
    let world = World::new().await;
    world.sql(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t(x) VALUES ('good')",
    );
    world
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("read folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn of_restores(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|n| n.contains(".backstay-") || n.contains(".before-restore-")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_behind_a_link_to_another_file_system_is_replaced_where_it_lies() {
    let world = filled().await;
    let good = world.rows();
    let memory = Path::new("/dev/shm");
    let there = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder");
    let real = there.path().join("real.db");
    fs::copy(world.db(), &real).expect("copy");
    fs::remove_file(world.db()).expect("remove");
    symlink(&real, world.db()).expect("link");
    world.backup().await.expect("backup");
    world.sql("DELETE FROM t");
    let report = world.restore_into(Target::Latest, Destination::InPlace(world.db())).await.expect("restore");
    assert_eq!(report.plan.to, real.canonicalize().expect("there"));
    assert!(world.db().is_symlink() && !real.is_symlink());
    assert_eq!(rows_of(&real), good);
    assert!(of_restores(world.dir()).is_empty(), "nothing was made beside the link");
    assert!(report.kept[0].now.starts_with(there.path()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_that_fails_leaves_the_old_database_with_its_log() {
    let mut world = filled().await;
    world.backup().await.expect("backup");
    fs::write(world.db(), [b'?'; 8192]).expect("malform");
    let log = world.dir().join("shop.db-wal");
    fs::write(&log, "a log that is all there is").expect("write");
    let db = world.db();
    meddle(
        &mut world,
        move |op, _, to| {
            if op == "rename" && to == db { Err(io::ErrorKind::CrossesDevices.into()) } else { Ok(()) }
        },
    );
    let error = world.restore_into(Target::Latest, Destination::InPlace(world.db())).await.expect_err("no rename");
    assert!(error.to_string().contains("put the restored file at"), "{error}");
    assert_eq!(fs::read(world.db()).expect("there"), [b'?'; 8192]);
    assert_eq!(fs::read_to_string(&log).expect("there"), "a log that is all there is");
    assert_eq!(of_restores(world.dir()), [""; 0]);
}

fn request(target: Target, into: Destination, smoke: &[&str]) -> RestoreRequest {
    let smoke = smoke.iter().map(ToString::to_string).collect();
    RestoreRequest { source: source(), target, into, smoke, busy: Duration::from_secs(5) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_a_database_made_meanwhile_is_left_alone() {
    let world = filled().await;
    world.backup().await.expect("backup");
    let (out, log) = (world.dir().join("out.db"), world.dir().join("out.db-wal"));
    let planned = restore::plan(&world.vault, request(Target::Latest, Destination::New(out.clone()), &[])).await;
    fs::write(&out, "theirs").expect("write");
    fs::write(&log, "their log").expect("write");
    let inode = fs::metadata(&log).expect("there").ino();
    let error = restore::perform(&world.vault, planned.expect("a plan")).await.expect_err("it is in the way");
    assert!(matches!(error, OpsError::TargetExists { .. }), "{error}");
    assert_eq!(fs::metadata(&log).expect("there").ino(), inode);
    assert_eq!(of_restores(world.dir()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_moved_just_before_its_database_came_gets_its_name_back() {
    let mut world = filled().await;
    world.backup().await.expect("backup");
    let (out, log) = (world.dir().join("out.db"), world.dir().join("out.db-wal"));
    fs::write(&log, "their log").expect("write");
    let theirs = out.clone();
    meddle(&mut world, move |op, from, _| {
        if op == "rename" && from.ends_with("out.db-wal") { fs::write(&theirs, "theirs") } else { Ok(()) }
    });
    let error = world.restore(Target::Latest, &out).await.expect_err("it is in the way");
    assert!(matches!(error, OpsError::TargetExists { .. }), "{error}");
    assert_eq!(fs::read_to_string(&log).expect("there"), "their log");
    assert_eq!(fs::read_to_string(&out).expect("there"), "theirs");
    assert_eq!(of_restores(world.dir()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_put_where_the_private_file_was_is_not_followed() {
    let mut world = filled().await;
    world.backup().await.expect("backup");
    let good = world.rows();
    fs::set_permissions(world.db(), fs::Permissions::from_mode(0o666)).expect("mode");
    let victim = world.dir().join("victim");
    fs::write(&victim, "secret").expect("write");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("mode");
    let (dir, to) = (world.dir().to_owned(), victim.clone());
    meddle(&mut world, move |op, _, _| {
        let staged = names(&dir).into_iter().find(|name| name.starts_with(".shop.db.backstay-"));
        let staged: Option<PathBuf> = staged.filter(|_| op == "link").map(|name| dir.join(name));
        staged.filter(|path| !path.is_symlink()).map_or(Ok(()), |path| {
            fs::remove_file(&path)?;
            symlink(&to, &path)
        })
    });
    let error = world.restore_into(Target::Latest, Destination::InPlace(world.db())).await.expect_err("not ours");
    assert!(error.to_string().contains(".backstay-"), "{error}");
    assert_eq!(fs::metadata(&victim).expect("there").mode() & 0o777, 0o600);
    assert_eq!(world.rows(), good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_fails_the_quick_check_is_refused_unless_it_is_known_and_named() {
    let world = filled().await;
    world.sql("INSERT INTO t(x) VALUES (NULL)");
    world.sql("PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = replace(sql, 'x TEXT', 'x TEXT NOT NULL')");
    let taken = world.backup().await.expect("backup");
    let by_id = || Target::Id(taken.snapshot.to_string());
    for (at, target) in [Target::Latest, by_id()].into_iter().enumerate() {
        let out = world.dir().join(format!("out{at}.db"));
        let planned = restore::plan(&world.vault, request(target, Destination::New(out.clone()), &["SELECT 1"])).await;
        let error = restore::perform(&world.vault, planned.expect("a plan")).await.expect_err("a problem");
        assert!(matches!(&error, OpsError::Unsound { problem } if problem.contains("NULL")), "{error}");
        assert!(!out.exists());
    }
    let proof = world.prove(&taken).await.expect("prove");
    assert!(matches!(proof.outcome, ProofOutcome::Failed { .. }), "{proof:?}");
    let out = world.dir().join("known.db");
    let planned = restore::plan(&world.vault, request(by_id(), Destination::New(out.clone()), &["SELECT 1"])).await;
    restore::perform(&world.vault, planned.expect("a plan")).await.expect("it is known to be bad");
    assert!(Connection::open(&out).is_ok() && out.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_copies_that_nobody_holds_are_removed_and_nothing_else() {
    let world = filled().await;
    let taken = world.backup().await.expect("backup");
    let proofs = world.dir().join("proof");
    fs::create_dir_all(&proofs).expect("create folder");
    let id = taken.snapshot;
    let plant = |path: PathBuf| (fs::write(&path, "plain").expect("write"), path).1;
    let gone =
        [plant(proofs.join(format!("proof-0a1b2c3d-{id}.db"))), plant(world.dir().join(".x.db.backstay-0a1b2c3d"))];
    let held =
        [plant(proofs.join(format!("proof-1a1b2c3d-{id}.db"))), plant(world.dir().join(".x.db.backstay-1a1b2c3d"))];
    let locks = held.each_ref().map(|path| File::open(path).expect("open"));
    locks.iter().for_each(|file| file.lock().expect("a lock"));
    let others = [plant(proofs.join("proof-of-purchase.db")), plant(world.dir().join("x.db.backstay-0a1b2c3d"))];
    let link = world.dir().join(".y.db.backstay-0a1b2c3d");
    symlink(&others[0], &link).expect("link");
    world.prove(&taken).await.expect("prove");
    world.restore(Target::Latest, &world.dir().join("out.db")).await.expect("restore");
    assert!(gone.iter().all(|path| !path.exists()), "{:?}", of_restores(world.dir()));
    assert!(held.iter().chain(&others).all(|path| path.exists()) && link.is_symlink());
}
