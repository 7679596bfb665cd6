//! Restoring from a replica of Litestream 0.5: the files that lead to a state, laid over one another into a new database.
//!
//! Only reads the replica, in a folder or in a bucket. Every file is read to its end and compared with its own checksum; the new database is written
//! under a private name, asked by SQLite whether it is sound, and only then given the one that was asked for. A crash leaves a
//! private file, which the next run into that folder removes.

mod place;

pub use place::Replica;

use crate::disk::{At, DiskFile};
use crate::private::Private;
use crate::{Env, Event, OpsError};
use backstay_format::ltx::{Header, LtxError, Reader};
use backstay_model::litestream::{LtxFile, chain, newest_at};
use backstay_model::{ByteLen, Moment, PageSize, SourceName};
use backstay_sqlite::Answers;
use backstay_sqlite::question::IntegrityAnswer;
use place::{Found, Source};
use std::path::PathBuf;

/// Pages between two looks at whether to stop.
const PAGES_PER_LOOK: u64 = 256;

/// What a person asked for.
#[derive(Clone)]
pub struct ReplicaRequest {
    pub replica: Replica,
    /// A file that must not exist yet.
    pub to: PathBuf,
    pub until: Until,
}

/// Which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Last,
    /// The one after this transaction.
    Txid(u64),
    /// The last one that had been made by then.
    At(Moment),
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
    found: Vec<Found>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct ReplicaRestored {
    pub to: PathBuf,
    /// Pages that were written, one for each time.
    pub pages: u64,
    pub answers: Answers,
    pub millis: u64,
}

/// Decides, and writes nothing. Blocks.
pub fn plan(request: &ReplicaRequest) -> Result<ReplicaPlan, OpsError> {
    let all = request.replica.list()?;
    let files: Vec<LtxFile> = all.iter().map(|found| found.file).collect();
    let wanted = match request.until {
        Until::Last => None,
        Until::Txid(txid) => Some(txid),
        Until::At(at) => Some(newest_at(&written(&request.replica, &all)?, at)?),
    };
    let chosen = chain(&files, wanted)?;
    let known = |file: &LtxFile| all.iter().find(|found| found.file == *file).cloned();
    let found: Vec<Found> = chosen.iter().filter_map(known).collect();
    let mut headers = Vec::new();
    for found in &found {
        let bytes = request.replica.beginning(found)?;
        headers.push(header_of(&bytes, found, headers.first())?);
    }
    let (first, last) = headers.first().zip(headers.last()).ok_or_else(|| request.replica.is_none())?;
    let most = headers.iter().map(|header| header.commit).max().unwrap_or(0);
    Ok(ReplicaPlan {
        txid: last.max,
        at: Moment::from_millis(last.timestamp),
        page_size: first.page_size.get(),
        length: ByteLen::new(u64::from(most) * first.page_size.bytes()),
        files: chosen,
        found,
    })
}

/// When each file was written, as it says itself.
fn written(replica: &Replica, all: &[Found]) -> Result<Vec<(LtxFile, Moment)>, OpsError> {
    let mut written = Vec::with_capacity(all.len());
    for (found, bytes) in all.iter().zip(replica.beginnings(all)?) {
        let header = header_of(&bytes, found, None)?;
        let at = Moment::from_millis(header.timestamp);
        written.push((found.file, at.ok_or_else(|| ltx(found, LtxError::Header("it has a time that cannot be")))?));
    }
    Ok(written)
}

/// What a file says of itself, which must be what its name says.
fn header_of(bytes: &[u8], found: &Found, first: Option<&Header>) -> Result<Header, OpsError> {
    let bytes = bytes.first_chunk().ok_or_else(|| ltx(found, LtxError::Short))?;
    let header = Header::parse(bytes).map_err(|error| ltx(found, error))?;
    if (header.min, header.max) != (found.file.min, found.file.max) {
        return Err(ltx(found, LtxError::Header("its transactions are not those of its name")));
    }
    if first.is_some_and(|first| first.page_size != header.page_size) && !header.is_snapshot() {
        return Err(ltx(found, LtxError::Header("its pages have another size than those of the snapshot")));
    }
    Ok(header)
}

fn ltx(found: &Found, source: LtxError) -> OpsError {
    match place::of_store(source) {
        Ok(error) => error.into(),
        Err(source) => OpsError::Ltx { path: found.shown.clone(), source },
    }
}

/// Does what was planned. Blocks.
pub fn perform(env: &Env, plan: &ReplicaPlan, request: &ReplicaRequest) -> Result<ReplicaRestored, OpsError> {
    let began = env.clock.now();
    let source = SourceName::suggest(&request.to.file_name().unwrap_or_default().to_string_lossy());
    env.tell(Event::Began { source, what: "restoring from Litestream", bytes: None });
    let to = std::path::absolute(&request.to).at("find", &request.to)?;
    let new = Private::create(env, &to, plan.length)?;
    let mut pages = 0;
    for found in &plan.found {
        pages += lay(env, (&request.replica, found), &new)?;
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
fn lay(env: &Env, (replica, found): (&Replica, &Found), new: &Private<'_>) -> Result<u64, OpsError> {
    let mut reader: Reader<Source> = Reader::open(replica.open(found)?).map_err(|error| ltx(found, error))?;
    let (size, commit): (PageSize, u32) = (reader.header().page_size, reader.header().commit);
    let file: &dyn DiskFile = new.file();
    let mut page = vec![0; size.get() as usize];
    let mut count = 0;
    while let Some(number) = reader.next_page(&mut page).map_err(|error| ltx(found, error))? {
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
