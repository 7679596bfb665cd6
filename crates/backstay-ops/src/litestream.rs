//! Restoring from a replica of Litestream 0.5: the files that lead to a state, laid over one another into a new database.
//!
//! Only reads the replica. Every file is read to its end and compared with its own checksum; the new database is written
//! under a private name, asked by SQLite whether it is sound, and only then given the one that was asked for. A crash leaves a
//! private file, which the next run into that folder removes.

use crate::disk::{At, DiskFile};
use crate::private::Private;
use crate::{Env, Event, OpsError};
use backstay_format::ltx::{Header, LtxError, Reader, parse_name};
use backstay_model::litestream::{LtxFile, chain};
use backstay_model::{ByteLen, Moment, PageSize, SourceName};
use backstay_sqlite::Answers;
use backstay_sqlite::question::IntegrityAnswer;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Where a replica keeps its files, and a replica of the releases before 0.5.
const FILES: &str = "ltx";
const OLD: &str = "generations";
const LEVEL_MAX: u8 = 9;
/// Pages between two looks at whether to stop.
const PAGES_PER_LOOK: u64 = 256;

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct ReplicaRequest {
    /// A folder with the folder `ltx`, or that folder.
    pub replica: PathBuf,
    /// A file that must not exist yet.
    pub to: PathBuf,
    /// The state after this transaction; otherwise the last one.
    pub txid: Option<u64>,
}

/// What will be done.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ReplicaPlan {
    /// In the order they are laid over one another.
    pub files: Vec<LtxFile>,
    pub txid: u64,
    /// When Litestream wrote the last of them.
    pub at: Option<Moment>,
    pub page_size: u32,
    pub length: ByteLen,
    #[serde(skip)]
    paths: Vec<PathBuf>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct ReplicaRestored {
    pub to: PathBuf,
    /// Pages that were written, one for each time.
    pub pages: u64,
    pub answers: Answers,
    pub millis: u64,
}

/// Decides, and writes nothing.
pub fn plan(request: &ReplicaRequest) -> Result<ReplicaPlan, OpsError> {
    let found = list(&request.replica)?;
    let files: Vec<LtxFile> = found.iter().map(|(file, _)| *file).collect();
    let chosen = chain(&files, request.txid)?;
    let path = |file: &LtxFile| found.iter().find(|(known, _)| known == file).map(|(_, path)| path.clone());
    let paths: Vec<PathBuf> = chosen.iter().filter_map(path).collect();
    let mut headers = Vec::new();
    for (file, path) in chosen.iter().zip(&paths) {
        headers.push(*open(path, *file, headers.first())?.header());
    }
    let (first, last) = headers.first().zip(headers.last()).ok_or_else(|| not_a_replica(&request.replica))?;
    let most = headers.iter().map(|header| header.commit).max().unwrap_or(0);
    Ok(ReplicaPlan {
        txid: last.max,
        at: Moment::from_millis(last.timestamp),
        page_size: first.page_size.get(),
        length: ByteLen::new(u64::from(most) * first.page_size.bytes()),
        files: chosen,
        paths,
    })
}

/// The files of a replica by their names.
fn list(replica: &Path) -> Result<Vec<(LtxFile, PathBuf)>, OpsError> {
    let below = replica.join(FILES);
    let folder = if below.is_dir() { below } else { replica.to_owned() };
    let mut found = Vec::new();
    for level in 0..=LEVEL_MAX {
        let level_folder = folder.join(level.to_string());
        if !level_folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&level_folder).at("look into", &level_folder)? {
            let entry = entry.at("look into", &level_folder)?;
            // What Litestream has not finished has another name.
            if let Some((min, max)) = entry.file_name().to_str().and_then(parse_name) {
                found.push((LtxFile { level, min, max }, entry.path()));
            }
        }
    }
    if found.is_empty() { Err(not_a_replica(replica)) } else { Ok(found) }
}

fn not_a_replica(path: &Path) -> OpsError {
    OpsError::NotAReplica { path: path.to_owned(), is_old: path.join(OLD).is_dir() }
}

fn open(path: &Path, file: LtxFile, first: Option<&Header>) -> Result<Reader<BufReader<File>>, OpsError> {
    let reader = Reader::open(BufReader::new(File::open(path).at("open", path)?)).map_err(|e| ltx(path, e))?;
    let header = reader.header();
    if (header.min, header.max) != (file.min, file.max) {
        return Err(ltx(path, LtxError::Header("its transactions are not those of its name")));
    }
    if first.is_some_and(|first| first.page_size != header.page_size) && !header.is_snapshot() {
        return Err(ltx(path, LtxError::Header("its pages have another size than those of the snapshot")));
    }
    Ok(reader)
}

fn ltx(path: &Path, source: LtxError) -> OpsError {
    OpsError::Ltx { path: path.to_owned(), source }
}

/// Does what was planned. Blocks.
pub fn perform(env: &Env, plan: &ReplicaPlan, request: &ReplicaRequest) -> Result<ReplicaRestored, OpsError> {
    let began = env.clock.now();
    let source = SourceName::suggest(&request.to.file_name().unwrap_or_default().to_string_lossy());
    env.tell(Event::Began { source, what: "restoring from Litestream", bytes: None });
    let to = std::path::absolute(&request.to).at("find", &request.to)?;
    let new = Private::create(env, &to, plan.length)?;
    let mut pages = 0;
    for (file, path) in plan.files.iter().zip(&plan.paths) {
        pages += lay(env, open(path, *file, None)?, path, &new)?;
    }
    let answers = new.question()?;
    match &answers.integrity {
        IntegrityAnswer::Problems { problems, .. } => {
            return Err(OpsError::Unsound { problem: problems.first().cloned().unwrap_or_default() });
        }
        IntegrityAnswer::Ok | IntegrityAnswer::Inconclusive { .. } => {}
    }
    new.name(&to)?;
    env.tell(Event::Ended);
    let millis = env.clock.now().millis_since(began).max(0) as u64;
    Ok(ReplicaRestored { to, pages, answers, millis })
}

/// Writes the pages of one file over what is there, and ends the database where it says.
fn lay(env: &Env, mut reader: Reader<BufReader<File>>, path: &Path, new: &Private<'_>) -> Result<u64, OpsError> {
    let (size, commit): (PageSize, u32) = (reader.header().page_size, reader.header().commit);
    let file: &dyn DiskFile = new.file();
    let mut page = vec![0; size.get() as usize];
    let mut count = 0;
    while let Some(number) = reader.next_page(&mut page).map_err(|e| ltx(path, e))? {
        file.write_at(u64::from(number - 1) * size.bytes(), &page).at("write", &new.path)?;
        count += 1;
        if count % PAGES_PER_LOOK == 0 {
            env.cancel.check()?;
            env.tell(Event::Advanced { bytes: PAGES_PER_LOOK * size.bytes() });
        }
    }
    file.set_len(u64::from(commit) * size.bytes()).at("write", &new.path)?;
    Ok(count)
}
