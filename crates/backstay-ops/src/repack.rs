//! Repack: units that live in packs which are mostly dead are stored again in new packs, so that a prune can delete the
//! old ones whole. For a reader who is a keeper too.
//!
//! Owns the order. Units are read with their packs, compared with what was signed and with their fingerprints, and put;
//! every new pack is read back; then, snapshot by snapshot, a later generation of the manifest is made, its maps are read
//! back from the store and compared unit by unit with those before, and only then is it put. Nothing is deleted here:
//! the earlier generations and their packs go by the next prune, after the grace.
//!
//! What the newest whole snapshot refers to stays where it is. The next backup builds on that, on a host that may
//! not be able to read; and backups leave thin packs by themselves.
//!
//! Memory holds a bit for each unit of the source, a line for each unit that is moved, and the maps of two snapshots.
//!
//! A crash leaves packs nothing refers to, which a prune frees when they are half a day old. Snapshots that were
//! done are done; units they share with those that were not are then stored a second time by the next run.
//!
//! Locks: a keeper's turn, so that no prune decides about what comes and goes here.

mod maps;
mod units;
mod uses;

use crate::catalog::Vault;
use crate::check::Problem;
use crate::journal;
use crate::retain::Turn;
use crate::{Event, OpsError, verified};
use backstay_format::facts::{AuditAct, Role};
use backstay_format::table::Reference;
use backstay_model::prune::WRITER_DEADLINE_MILLIS;
use backstay_model::space::{self, ObjectUse, RepackPolicy};
use backstay_model::{ByteLen, ObjectId, SourceName, Verdict};
use backstay_store::keys;
use std::collections::BTreeSet;
use std::time::Duration;
use uses::Uses;

/// Bytes that snapshots refer to, in hundredths of the live ones, above which packs are left.
const RATIO_PERCENT: u64 = 125;
/// Live bytes that one run stores again: what is moved is remembered unit by unit until its end.
const BUDGET: u64 = 8 << 30;

#[derive(Debug, Clone, serde::Serialize)]
pub struct RepackReport {
    pub verdict: Verdict,
    /// False for a plan, which has written nothing.
    pub performed: bool,
    pub sources: Vec<SourceReport>,
    pub not_recorded: Option<String>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct SourceReport {
    pub source: SourceName,
    pub verdict: Verdict,
    /// Snapshots that stand, and those of them that refer to packs which are left.
    pub snapshots: usize,
    pub affected: usize,
    /// Everything that snapshots refer to.
    pub referred: Volume,
    /// The packs that are left: they go by the prune, once nothing refers to them.
    pub leaving: Volume,
    /// Packs that should be left too, in the next run.
    pub put_off: usize,
    /// Packs whose live units were stored again, and in what.
    pub moved: usize,
    pub written: Stored,
    /// Snapshots that have a later generation now.
    pub rewritten: usize,
    /// What could not be read or moved; the snapshots concerned stay as they are.
    pub problems: Vec<Problem>,
}

/// Packs, and how much of them is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Volume {
    pub packs: usize,
    pub bytes: ByteLen,
    /// The share of the bytes that live units have, as far as units are alike.
    pub live: ByteLen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Stored {
    pub packs: usize,
    pub bytes: ByteLen,
}

impl Stored {
    fn add(&mut self, packs: &[Reference]) {
        self.packs += packs.len();
        self.bytes = ByteLen::new(self.bytes.get() + packs.iter().map(|pack| pack.stored).sum::<u64>());
    }
}

/// What a repack would do now. Writes nothing.
pub async fn plan(vault: &Vault, sources: &[SourceName]) -> Result<RepackReport, OpsError> {
    vault.signer(Role::Reader)?;
    vault.unsealer()?;
    let mut rows = Vec::new();
    for source in sources {
        let uses = Uses::gather(vault, source).await?;
        rows.push(decide(source, &uses).0);
    }
    Ok(report(false, rows))
}

/// Does what `plan` says, now.
pub async fn apply(vault: &Vault, sources: &[SourceName]) -> Result<RepackReport, OpsError> {
    vault.signer(Role::Reader)?;
    vault.signer(Role::Keeper)?;
    vault.unsealer()?;
    let mut turn = Turn::take(vault).await?;
    let done = in_turn(vault, sources, &mut turn).await;
    turn.give_back().await;
    let mut report = report(true, done?);
    for row in report.sources.iter().filter(|row| row.rewritten > 0) {
        let (snapshots, packs) = (row.rewritten as u64, row.moved as u64);
        let act = AuditAct::PacksRepacked { source: row.source.clone(), snapshots, packs };
        report.not_recorded = journal::note(vault, act).await.or(report.not_recorded);
    }
    Ok(report)
}

fn report(performed: bool, sources: Vec<SourceReport>) -> RepackReport {
    let verdict = sources.iter().map(|row| row.verdict).fold(Verdict::Pass, Verdict::and);
    RepackReport { verdict, performed, sources, not_recorded: None }
}

async fn in_turn(vault: &Vault, sources: &[SourceName], turn: &mut Turn<'_>) -> Result<Vec<SourceReport>, OpsError> {
    let mut rows = Vec::new();
    for source in sources {
        vault.env.tell(Event::Began { source: source.clone(), what: "repacking", bytes: None });
        let start = vault.env.clock.uptime();
        let uses = Uses::gather(vault, source).await?;
        let (mut row, leaving) = decide(source, &uses);
        if !leaving.is_empty() {
            let mut run = Run { vault, source, uses: &uses, turn, start, row };
            let sealer = vault.repo.sealer(vault.env.random.as_ref());
            let moved = units::store_again(&mut run, &sealer, &leaving).await?;
            run.row.moved = moved.from.len();
            maps::rewrite(&mut run, (&sealer, &moved)).await?;
            row = run.row;
        }
        row.verdict = row.problems.iter().map(|problem| problem.verdict).fold(Verdict::Pass, Verdict::and);
        vault.env.tell(Event::Ended);
        rows.push(row);
    }
    Ok(rows)
}

/// The packs to leave, and the report so far.
fn decide(source: &SourceName, uses: &Uses) -> (SourceReport, BTreeSet<ObjectId>) {
    let movable: Vec<(&ObjectId, ObjectUse)> = uses
        .packs
        .iter()
        .filter(|(_, pack)| !pack.held && pack.total > 0)
        .map(|(id, pack)| (id, pack.used()))
        .collect();
    let objects: Vec<ObjectUse> = movable.iter().map(|(_, used)| *used).collect();
    let chosen = space::repack(&objects, RepackPolicy { ratio_percent: RATIO_PERCENT, budget: BUDGET });
    let leaving: BTreeSet<ObjectId> =
        chosen.objects.iter().filter_map(|at| movable.get(*at)).map(|(id, _)| **id).collect();
    let row = SourceReport {
        source: source.clone(),
        verdict: uses.problems.iter().map(|problem| problem.verdict).fold(Verdict::Pass, Verdict::and),
        snapshots: uses.snapshots.len(),
        affected: uses.affected(&leaving),
        referred: uses.volume(|_| true),
        leaving: uses.volume(|id| leaving.contains(id)),
        put_off: chosen.put_off,
        moved: 0,
        written: Stored::default(),
        rewritten: 0,
        problems: uses.problems.clone(),
    };
    (row, leaving)
}

/// The repacking of one source.
struct Run<'r, 't> {
    vault: &'r Vault,
    source: &'r SourceName,
    uses: &'r Uses,
    turn: &'r mut Turn<'t>,
    /// By the clock of spans: what was put then is young for so long, and no prune takes it.
    start: Duration,
    row: SourceReport,
}

impl Run<'_, '_> {
    /// Between two steps: whether this may still go on.
    async fn check(&mut self) -> Result<(), OpsError> {
        self.vault.env.cancel.check()?;
        self.turn.check().await?;
        let passed = self.vault.env.clock.uptime().saturating_sub(self.start).as_millis();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        const HOUR: i64 = 3_600_000;
        if passed < WRITER_DEADLINE_MILLIS {
            return Ok(());
        }
        Err(OpsError::TooSlow { hours: passed / HOUR, allowed: WRITER_DEADLINE_MILLIS / HOUR })
    }

    /// New packs, as the store gives them back.
    async fn read_back(&mut self, packs: &[Reference]) -> Result<(), OpsError> {
        for pack in packs {
            let key = keys::pack(self.source, &pack.object);
            verified::object(self.vault.repo.store().as_ref(), &key, pack).await?;
            self.vault.env.tell(Event::Advanced { bytes: pack.stored });
        }
        self.row.written.add(packs);
        Ok(())
    }

    fn problem(&mut self, object: String, error: &backstay_store::repo::RepoError, snapshot: ObjectId) {
        self.row.problems.push(Problem::of(object, error, vec![snapshot]));
    }
}
