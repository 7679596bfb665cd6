//! Giving a restored file its name.
//!
//! In place: the live database is held exclusively and its log copied back into it, so that from then
//! on its main file alone is the old state; its log is kept beside the kept file all the same. The new
//! file takes the name in one rename. Before that rename the path leads to the whole old database,
//! after it to the whole new one; a log that could be laid over the wrong file is never there.
//!
//! A crash before that rename leaves the live database with a second name, which the next restore in
//! place takes away; a failure before it takes it away at once, and gives what was beside the database
//! its name back. What stays under another name all the same is told with the failure.
//!
//! An old database that cannot be opened is moved aside as it is: its log and journal first, then the
//! main file is replaced. It was not usable before, and every byte of it is kept.

use super::Staged;
use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::{self, At, Disk, DiskFile, PathError};
use crate::state::{Identity, Restored};
use backstay_model::SourceName;
use backstay_model::catalog::Snapshot;
use backstay_sqlite::{ExclusiveHold, FileIdentity, SqliteError};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Something that stood in the way and is now called otherwise.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Kept {
    pub was: PathBuf,
    pub now: PathBuf,
}

pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Files beside a path that SQLite would take for parts of the database there.
pub fn siblings(path: &Path) -> Vec<PathBuf> {
    BESIDE.iter().map(|suffix| beside(path, suffix)).filter(|p| p.symlink_metadata().is_ok()).collect()
}

/// A restore to a name nobody has. `link` refuses a name that was taken meanwhile.
pub(crate) fn into_new(vault: &Vault, staged: &Staged<'_>, to: &Path) -> Result<Vec<Kept>, OpsError> {
    let disk = vault.env.disk.as_ref();
    let mut kept = Vec::new();
    let named = clear(vault, to, &mut kept).and_then(|()| give_names(vault, staged, to));
    if let Err(error) = named {
        for stream in staged.streams.iter().filter(|stream| !stream.suffix.is_empty()) {
            let name = beside(to, stream.suffix);
            if stream.file.is_at(&name).is_ok_and(|is_ours| is_ours) {
                let _ = disk.remove(&name);
            }
        }
        return Err(staying(error, &put_back(disk, kept)));
    }
    match disk.sync_dir(disk::folder_of(to)).at("sync folder of", to) {
        Ok(()) => Ok(kept),
        Err(error) => Err(staying(error.into(), &kept)),
    }
}

/// Moves aside what SQLite would take for parts of the new database. When somebody made a database
/// there meanwhile, they are parts of that one.
fn clear(vault: &Vault, to: &Path, kept: &mut Vec<Kept>) -> Result<(), OpsError> {
    let mark = mark(vault);
    for stale in siblings(to) {
        refuse_taken(to)?;
        let now = free_name(&stale, &mark);
        vault.env.disk.rename(&stale, &now).at("move aside", &stale)?;
        kept.push(Kept { was: stale, now });
    }
    Ok(())
}

fn refuse_taken(to: &Path) -> Result<(), OpsError> {
    if to.symlink_metadata().is_ok() { Err(OpsError::TargetExists { path: to.to_owned() }) } else { Ok(()) }
}

fn give_names(vault: &Vault, staged: &Staged<'_>, to: &Path) -> Result<(), OpsError> {
    let disk = vault.env.disk.as_ref();
    // The main file last: with it the database is there. What was moved aside and what belongs to it
    // is durable before that, or a power cut could leave it with the wrong log, or without its own.
    let mut streams: Vec<_> = staged.streams.iter().collect();
    streams.sort_by_key(|stream| stream.suffix.is_empty());
    for stream in streams {
        if stream.suffix.is_empty() {
            disk.sync_dir(disk::folder_of(to)).at("sync folder of", to)?;
        }
        let name = beside(to, stream.suffix);
        refuse_taken(to)?;
        stream.still_there()?;
        match disk.link(&stream.path, &name) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(OpsError::TargetExists { path: name });
            }
            other => other.at("name", &name)?,
        }
    }
    Ok(())
}

/// Gives files their old names back, unless somebody has used those since. Says which stay.
fn put_back(disk: &dyn Disk, moved: Vec<Kept>) -> Vec<Kept> {
    let folder = moved.first().map(|file| disk::folder_of(&file.was).to_owned());
    let is_back = |file: &Kept| disk.link(&file.now, &file.was).and_then(|()| disk.remove(&file.now)).is_ok();
    let stay = moved.into_iter().filter(|file| !is_back(file)).collect();
    if let Some(folder) = folder {
        let _ = disk.sync_dir(&folder);
    }
    stay
}

/// The error, and where the files are that could not be given back.
fn staying(error: OpsError, kept: &[Kept]) -> OpsError {
    let Some(first) = kept.first() else { return error };
    let kind = match &error {
        OpsError::Path(error) => error.source.kind(),
        _ => std::io::ErrorKind::Other,
    };
    let names = kept.iter().map(|file| format!("{} is kept as {}", file.was.display(), file.now.display()));
    let names: Vec<String> = names.collect();
    let source = std::io::Error::new(kind, format!("{}; {}", crate::prove::with_causes(&error), names.join(", ")));
    PathError { op: "give its name back to", path: first.was.clone(), source }.into()
}

/// What follows the name of a file that was kept; then comes the time.
const KEPT: &str = ".before-restore-";

pub(super) fn mark(vault: &Vault) -> String {
    format!("{KEPT}{}", vault.env.clock.now().compact())
}

/// The live database a restore takes the place of.
pub(super) struct Live<'a> {
    pub to: &'a Path,
    pub busy: Duration,
    pub snapshot: &'a Snapshot,
    pub source: &'a SourceName,
}

/// Replaces the live database. Says what was kept, and what could not be seen of its users.
pub(super) fn in_place(
    vault: &Vault,
    staged: &Staged<'_>,
    live: Live<'_>,
) -> Result<(Vec<Kept>, Vec<String>), OpsError> {
    if staged.streams.len() != 1 {
        // A second stream would lie beside the new file as its log before it has its name.
        let problem = "a capture with a log of its own is restored to a new file only".into();
        return Err(OpsError::Unsound { problem });
    }
    let to = match live.to.canonicalize() {
        // Nothing is there: in place of nothing is a new file.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok((into_new(vault, staged, live.to)?, Vec::new()));
        }
        other => other.at("find", live.to)?,
    };
    check_same_place(&staged.main().path, &to, live.to)?;
    let seen = backstay_sqlite::holders(&to);
    if !seen.processes.is_empty() {
        let names: Vec<String> = seen.processes.iter().map(ToString::to_string).collect();
        return Err(OpsError::InUse { path: to, who: format!("open in {}", names.join(", ")) });
    }
    let hold = hold(&to, live.busy)?;
    forget_interrupted(vault, &to)?;
    let old = FileIdentity::of_path(&to)?;
    let (mut kept, mut aside) = (Vec::new(), Vec::new());
    let swapped = keep_old(vault, &to, hold.as_ref(), &mut kept)
        .and_then(|()| make_ready(vault, staged, &live, hold.as_ref()))
        .and_then(|()| put_in_place(vault, staged, &to, &mut aside));
    if let Err(error) = swapped {
        let is_old = FileIdentity::of_path(&to).is_ok_and(|found| found == old);
        return Err(if is_old { undo(vault, kept, aside, error) } else { staying(error, &kept) });
    }
    drop(hold);
    Ok((kept, seen.blind_spots))
}

/// The old database is still in its place: what was beside it goes back there, and other names of it
/// would only be taken for copies. As long as something is not back, its copy stays.
fn undo(vault: &Vault, mut kept: Vec<Kept>, aside: Vec<Kept>, error: OpsError) -> OpsError {
    let disk = vault.env.disk.as_ref();
    if put_back(disk, aside).is_empty() {
        kept.retain(|kept| disk.remove(&kept.now).is_err());
    }
    staying(error, &kept)
}

/// Fails while nothing was touched when the restored file could not take the name: on another mount no
/// file can be renamed over it, nor can one where a single file was mounted.
fn check_same_place(new: &Path, to: &Path, planned: &Path) -> Result<(), OpsError> {
    if to != planned {
        let who = "its path leads elsewhere since the restore was planned".into();
        return Err(OpsError::InUse { path: planned.to_owned(), who });
    }
    if place(new)? == place(to)? {
        return Ok(());
    }
    let crosses = std::io::Error::from(std::io::ErrorKind::CrossesDevices);
    Ok(Err(crosses).at("put the restored file at", to)?)
}

/// The mount a file lies on, or its device where the system does not tell the mount.
fn place(path: &Path) -> Result<(u64, u64), OpsError> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted) {
        Ok(found) if found.stx_mask & StatxFlags::MNT_ID.bits() != 0 => Ok((1, found.stx_mnt_id)),
        _ => Ok((0, path.symlink_metadata().at("look at", path)?.dev())),
    }
}

/// Everything that may fail before the old database is touched.
fn make_ready(
    vault: &Vault,
    staged: &Staged<'_>,
    live: &Live<'_>,
    hold: Option<&ExclusiveHold>,
) -> Result<(), OpsError> {
    let new = staged.main();
    new.still_there()?;
    new.file.give_owner_of(live.to).at("give the owner and mode to", &new.path)?;
    note_restored(vault, staged, live)?;
    hold.map_or(Ok(()), |hold| Ok(hold.still_there()?))
}

/// What a restore wants to keep the old file under, when it died before the new one took its place,
/// is a second name of a live database. SQLite would look for a log under that name and write it into
/// the live file, so the name goes. A copy of the log without it is harmless, and stays.
fn forget_interrupted(vault: &Vault, to: &Path) -> Result<(), OpsError> {
    let disk = vault.env.disk.as_ref();
    let beginning = beside(to, KEPT).file_name().unwrap_or_default().to_owned();
    let live = [to.to_owned(), beside(to, "-shm")];
    let live: Vec<FileIdentity> = live.iter().filter_map(|path| FileIdentity::of_path(path).ok()).collect();
    for entry in std::fs::read_dir(disk::folder_of(to)).at("look into the folder of", to)? {
        let entry = entry.at("look into the folder of", to)?;
        let is_kept = entry.file_name().as_encoded_bytes().starts_with(beginning.as_encoded_bytes());
        let is_live = || FileIdentity::of_path(&entry.path()).is_ok_and(|found| live.contains(&found));
        if is_kept && !entry.path().is_symlink() && is_live() {
            disk.remove(&entry.path()).at("remove", &entry.path())?;
        }
    }
    Ok(())
}

/// Holds the old database, if it can be opened at all.
fn hold(to: &Path, busy: Duration) -> Result<Option<ExclusiveHold>, OpsError> {
    match backstay_sqlite::take_exclusive(to, busy) {
        Ok(hold) => Ok(Some(hold)),
        Err(SqliteError::Locked { path, holders, .. }) => {
            let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
            let who = if names.is_empty() { "somebody holds its lock".into() } else { names.join(", ") };
            Err(OpsError::InUse { path, who })
        }
        Err(SqliteError::NotADatabase { .. } | SqliteError::Encrypted { .. } | SqliteError::Malformed { .. }) => {
            Ok(None)
        }
        Err(other) => Err(other.into()),
    }
}

/// Gives every file of the old database a second name, noted in `kept` as soon as it has it. The log
/// is copied before it is emptied.
fn keep_old(vault: &Vault, to: &Path, hold: Option<&ExclusiveHold>, kept: &mut Vec<Kept>) -> Result<(), OpsError> {
    let disk = vault.env.disk.as_ref();
    let old = free_name(to, &mark(vault));
    for suffix in ["-wal", "-journal"] {
        let (was, now) = (beside(to, suffix), beside(&old, suffix));
        if was.metadata().is_ok_and(|meta| meta.len() > 0) {
            copy(vault, &was, &now)?;
            kept.push(Kept { was, now });
        }
    }
    if let Some(hold) = hold {
        hold.checkpoint_all()?;
    }
    disk.link(to, &old).at("keep the old file as", &old)?;
    kept.insert(0, Kept { was: to.to_owned(), now: old.clone() });
    disk.sync_dir(disk::folder_of(to)).at("sync folder of", to)?;
    let shared = beside(to, "-shm");
    if shared.exists() {
        let now = beside(&old, "-shm");
        disk.link(&shared, &now).at("keep the old index as", &now)?;
        kept.push(Kept { was: shared, now });
    }
    Ok(())
}

/// A name nothing has yet, nor anything that SQLite would look for beside it: two restores in one
/// second keep both old files.
pub(super) fn free_name(to: &Path, mark: &str) -> PathBuf {
    let names = std::iter::once(String::new()).chain((2..).map(|n| format!("-{n}")));
    let mut paths = names.map(|n| beside(to, &format!("{mark}{n}")));
    let is_free = |path: &PathBuf| path.symlink_metadata().is_err() && siblings(path).is_empty();
    paths.find(is_free).expect("the numbers do not end")
}

/// Copies a file durably; what could not be finished is removed.
fn copy(vault: &Vault, from: &Path, to: &Path) -> Result<(), OpsError> {
    let disk = vault.env.disk.as_ref();
    let mut source = std::fs::File::open(from).at("open", from)?;
    let file = disk.create(to, 0o600).at("create", to)?;
    let copied = fill(&mut source, file.as_ref(), to)
        .and_then(|()| file.give_owner_of(from).at("give the owner and mode to", to));
    if copied.is_err() {
        let _ = disk.remove(to);
    }
    Ok(copied?)
}

fn fill(source: &mut std::fs::File, file: &dyn DiskFile, to: &Path) -> Result<(), PathError> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let count = source.read(&mut buffer).at("read for", to)?;
        if count == 0 {
            break;
        }
        let (chunk, _) = buffer.split_at(count);
        file.write_at(at, chunk).at("write", to)?;
        at += count as u64;
    }
    file.sync().at("sync", to)
}

/// Remembered before the swap and believed only if this very file turns out to be at the path.
fn note_restored(vault: &Vault, staged: &Staged<'_>, live: &Live<'_>) -> Result<(), OpsError> {
    let file: Identity = FileIdentity::of_path(&staged.main().path)?.into();
    let restored = Restored { file, branch: live.snapshot.branch, position: live.snapshot.position };
    vault.state.update(live.source, |seen| seen.restored = Some(restored))?;
    Ok(())
}

/// The old log and its index step aside (they are kept), then the new file takes the name in one step.
/// Each of them is noted in `aside` as soon as it is gone from its name.
fn put_in_place(vault: &Vault, staged: &Staged<'_>, to: &Path, aside: &mut Vec<Kept>) -> Result<(), OpsError> {
    let (disk, new) = (vault.env.disk.as_ref(), staged.main());
    for suffix in BESIDE {
        let (was, now) = (beside(to, suffix), beside(&new.path, suffix));
        if was.symlink_metadata().is_ok() {
            disk.rename(&was, &now).at("move aside", &was)?;
            aside.push(Kept { was, now });
        }
    }
    disk.sync_dir(disk::folder_of(to)).at("sync folder of", to)?;
    new.still_there()?;
    disk.rename(&new.path, to).at("put the restored file at", to)?;
    for old in aside {
        let _ = disk.remove(&old.now);
    }
    disk.sync_dir(disk::folder_of(to)).at("sync folder of", to)?;
    if new.file.is_at(to).at("look at", to)? {
        return Ok(());
    }
    let other = std::io::Error::other("somebody put another file there in the same moment");
    Ok(Err(other).at("put the restored file at", to)?)
}
