//! The capture of a backup: the scan of a live database, what has to be taken again, the new map.

use super::gather::Gathered;
use super::opening;
use super::{BackupRequest, Malformed, Plan, Purpose};
use crate::catalog::Vault;
use crate::disk::At;
use crate::fingerprints::FingerprintFile;
use crate::map::{self, Live, MapInput, NewMap};
use crate::packer::{Packed, Packer, PackerParts};
use crate::scan::{Scan, Scanned};
use crate::state::Identity;
use crate::{Event, OpsError};
use backstay_format::FingerprintKey;
use backstay_format::facts::{FingerprintFacts, SealedManifest, Stream};
use backstay_format::table::Table;
use backstay_model::catalog::Quality;
use backstay_model::{ByteLen, Digest, FingerprintKeyId, Moment, ObjectId, UnitSize, seams};
use backstay_sqlite::{Capture, CaptureOptions, CaptureReport, FileIdentity, SourceFacts, SqliteError};
use backstay_store::repo::Root;
use backstay_store::seal::Sealer;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use tokio::runtime::Handle;

/// Everything a manifest is made of, its packs durable.
pub struct Captured {
    pub moment: Moment,
    pub length: ByteLen,
    pub root: Digest,
    pub quality: Quality,
    pub streams: Vec<CapturedStream>,
    pub live: HashMap<ObjectId, Live>,
    pub packed: Packed,
    pub sealer: Sealer,
    pub identity: Identity,
    pub key: FingerprintKey,
    pub units: u64,
    pub units_stored: u64,
    pub capture: Option<CaptureReport>,
    pub engine: serde_json::Value,
    pub path: String,
    /// Where every page was looked at.
    pub opening: Option<opening::Settled>,
}

pub struct CapturedStream {
    pub facts: Stream,
    pub map: NewMap,
    pub fingerprints: FingerprintFile,
}

impl Captured {
    pub fn fingerprint_facts(&self) -> FingerprintFacts {
        FingerprintFacts { id: self.key.id, key: Digest::from_bytes(*self.key.secret()) }
    }

    pub fn sealed_facts(&self, table: &Table) -> SealedManifest {
        SealedManifest {
            fingerprint: self.fingerprint_facts(),
            host: host_name(),
            path: self.path.clone(),
            streams: self.streams.iter().map(|s| s.facts.clone()).collect(),
            engine: self.engine.clone(),
            opening: self.opening.as_ref().map(|opening| opening.facts(table)),
        }
    }

    pub fn roots(&self) -> Vec<Root> {
        self.streams.iter().map(|s| s.map.root.clone()).collect()
    }
}

pub fn capture(vault: &Vault, request: &BackupRequest, basis: Basis<'_>) -> Result<Captured, OpsError> {
    let options = CaptureOptions {
        busy: request.busy,
        hold_max: request.hold_max,
        log_growth_max: request.log_growth_max,
        let_go: match basis.purpose {
            Purpose::Follow(begin) => Some(begin.log_limit()),
            Purpose::Live | Purpose::Import { .. } | Purpose::Log(_) => None,
        },
        spool_dir: vault.state.source_dir(&request.source)?,
    };
    match Capture::open(&request.path, options, vault.env.clock.clone()) {
        Ok(live) => capture_live(vault, request, basis, live),
        Err(error) if is_malformed(&error) && request.malformed == Malformed::CaptureAsIs => {
            capture_as_is(vault, request)
        }
        Err(error) => Err(error.into()),
    }
}

fn is_malformed(error: &SqliteError) -> bool {
    matches!(error, SqliteError::NotADatabase { .. } | SqliteError::Encrypted { .. } | SqliteError::Malformed { .. })
}

/// What a capture builds on, and who goes on from it.
pub struct Basis<'a> {
    pub gathered: &'a Gathered,
    pub plan: &'a Plan,
    pub purpose: Purpose<'a>,
}

fn capture_live(
    vault: &Vault,
    request: &BackupRequest,
    basis: Basis<'_>,
    mut live: Capture,
) -> Result<Captured, OpsError> {
    let opened = vault.env.clock.now();
    let before = live.facts().clone();
    let unit = UnitSize::for_pages(before.page_size);
    let base = basis.gathered.base.as_ref().filter(|base| base.unit() == Some(unit));
    let key = match base {
        Some(base) => base.key(),
        None => known_key(vault, request)?,
    };
    let hasher = key.units();
    let sealer = vault.repo.sealer(vault.env.random.as_ref());
    let mut packer = new_packer(vault, request, &sealer);
    let seen = FingerprintFile::fresh(&vault.state.source_dir(&request.source)?, "seen")?;
    let read = |offset: u64, buf: &mut [u8]| live.read_at(offset, buf).map_err(OpsError::from);
    let scan = Scan {
        read: &read,
        len: before.len,
        unit,
        hasher: hasher.clone(),
        base,
        leaving: &basis.plan.leaving,
        threads: vault.env.threads,
        pages: Some(before.page_size),
    };
    let held = || live.check_log().map_err(OpsError::from);
    let Scanned { stored: mut units_stored, opening } =
        run(vault, request, Pass { scan: &scan, held: &held }, &mut packer, &seen)?;
    let mut settled = live.settle_while(&mut &seen, &hasher, &mut |fixed| match basis.purpose {
        Purpose::Follow(begin) => begin.hold(fixed),
        Purpose::Live | Purpose::Import { .. } | Purpose::Log(_) => Ok(()),
    })?;
    while let Some((number, bytes)) = settled.changed.next()? {
        vault.env.cancel.check()?;
        let fingerprint = hasher.fingerprint(&bytes);
        seen.write(number, &[fingerprint]).at("write", Path::new("the fingerprint spool"))?;
        packer.unit(number, fingerprint, &bytes)?;
        units_stored += 1;
    }
    let units = unit.count(settled.len);
    let placed = packer.take_placed()?;
    let placed = placed.into_iter().filter(|run| run.first < units).collect();
    let input = MapInput { base: base.map(|b| &b.map), units, placed, leaving: &basis.plan.leaving, known: None };
    let map = map::build(input, &mut packer)?;
    let packed = packer.finish()?;
    let opening = opening.map(|found| found.settled(&hasher, &seen, &map)).transpose()?;
    let mut root = key.root();
    root.begin_stream("main", unit, settled.len);
    seen.add_to_root(&mut root, units).at("read", Path::new("the fingerprint spool"))?;
    let facts = Stream { name: "main".into(), unit: unit.get(), length: settled.len, levels: map.levels };
    // Where everything was compared once more, the state is that of the second pass.
    let held = settled.report.passes == 1;
    Ok(Captured {
        moment: if held { opened } else { vault.env.clock.now() },
        length: settled.len,
        root: root.finish(),
        quality: Quality::Whole,
        live: map.live.clone(),
        streams: vec![CapturedStream { facts, map, fingerprints: seen }],
        packed,
        sealer,
        identity: settled.facts.identity.into(),
        key,
        units,
        units_stored,
        engine: engine_facts(&settled.facts),
        path: settled.facts.path.display().to_string(),
        capture: Some(settled.report),
        opening,
    })
}

fn capture_as_is(vault: &Vault, request: &BackupRequest) -> Result<Captured, OpsError> {
    let as_is = backstay_sqlite::capture_as_is(&request.path)?;
    let moment = vault.env.clock.now();
    let unit = UnitSize::try_from(UnitSize::MIN).expect("4096 is a unit size");
    let key = fresh_key(vault);
    let sealer = vault.repo.sealer(vault.env.random.as_ref());
    let mut packer = new_packer(vault, request, &sealer);
    let mut root = key.root();
    let (mut streams, mut length, mut units_stored) = (Vec::new(), 0, 0);
    let mut live: HashMap<ObjectId, Live> = HashMap::new();
    for (at, stream) in as_is.streams.iter().enumerate() {
        packer.begin_stream(at as u16)?;
        let seen = FingerprintFile::fresh(&vault.state.source_dir(&request.source)?, "as-is")?;
        let read = |offset: u64, buf: &mut [u8]| stream.read_at(offset, buf).map_err(OpsError::from);
        let leaving = HashSet::new();
        let scan = Scan {
            read: &read,
            len: stream.len,
            unit,
            hasher: key.units(),
            base: None,
            leaving: &leaving,
            threads: vault.env.threads,
            pages: None,
        };
        units_stored += run(vault, request, Pass { scan: &scan, held: &|| Ok(()) }, &mut packer, &seen)?.stored;
        let units = unit.count(stream.len);
        let input = MapInput { base: None, units, placed: packer.take_placed()?, leaving: &leaving, known: None };
        let map = map::build(input, &mut packer)?;
        root.begin_stream(stream.name, unit, stream.len);
        seen.add_to_root(&mut root, units).at("read", Path::new("the fingerprint spool"))?;
        for (object, use_) in &map.live {
            let sum = live.entry(*object).or_default();
            sum.units += use_.units;
            sum.nodes += use_.nodes;
        }
        length += stream.len.get();
        let facts = Stream { name: stream.name.into(), unit: unit.get(), length: stream.len, levels: map.levels };
        streams.push(CapturedStream { facts, map, fingerprints: seen });
    }
    let still = as_is.finish();
    Ok(Captured {
        moment,
        length: ByteLen::new(length),
        root: root.finish(),
        quality: Quality::AsIs,
        streams,
        live,
        packed: packer.finish()?,
        sealer,
        identity: FileIdentity::of_path(&request.path)?.into(),
        key,
        units: units_stored,
        units_stored,
        capture: None,
        engine: serde_json::json!({ "as_is": true, "changed_meanwhile": still.changed }),
        path: request.path.display().to_string(),
        opening: None,
    })
}

/// A scan, and what must go on holding while it runs.
struct Pass<'a> {
    scan: &'a Scan<'a>,
    held: &'a dyn Fn() -> Result<(), OpsError>,
}

fn run(
    vault: &Vault,
    request: &BackupRequest,
    pass: Pass<'_>,
    packer: &mut Packer<'_>,
    seen: &FingerprintFile,
) -> Result<Scanned, OpsError> {
    let source = request.source.clone();
    vault.env.tell(Event::Began { source, what: "reading", bytes: Some(pass.scan.len.get()) });
    let mut last = 0;
    pass.scan.run(packer, seen, &mut |done| {
        vault.env.tell(Event::Advanced { bytes: done.saturating_sub(last) });
        last = done;
        (pass.held)()?;
        vault.env.cancel.check()
    })
}

pub fn new_packer<'a>(vault: &'a Vault, request: &'a BackupRequest, sealer: &'a Sealer) -> Packer<'a> {
    let parts = PackerParts {
        repo: &vault.repo,
        source: &request.source,
        sealer,
        random: vault.env.random.as_ref(),
        in_flight: request.uploads_in_flight,
    };
    Packer::new(parts, Handle::current())
}

/// The key another host handed over, or a new one.
fn known_key(vault: &Vault, request: &BackupRequest) -> Result<FingerprintKey, OpsError> {
    let known = vault.state.fingerprint(&request.source)?;
    Ok(known.map_or_else(|| fresh_key(vault), |known| FingerprintKey::new(known.id, *known.key.as_bytes())))
}

fn fresh_key(vault: &Vault) -> FingerprintKey {
    let random = vault.env.random.as_ref();
    FingerprintKey::new(FingerprintKeyId::from_bytes(seams::fresh(random)), seams::fresh(random))
}

fn engine_facts(facts: &SourceFacts) -> serde_json::Value {
    serde_json::json!({
        "page_size": facts.page_size.get(),
        "page_count": facts.page_count,
        "journal": facts.journal,
        "schema_digest": facts.schema_digest,
        "change_counter": facts.change_counter,
        "schema_cookie": facts.schema_cookie,
        "user_version": facts.user_version,
        "application_id": facts.application_id,
    })
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
