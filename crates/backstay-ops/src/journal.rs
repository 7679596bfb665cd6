//! The audit: what people and keepers did, one signed chain for each signer.
//!
//! An act is done first and recorded after, because a record of what never happened would be worse than
//! none: a crash between the two leaves the act in the configuration, which is signed and numbered too.

use crate::OpsError;
use crate::catalog::Vault;
use crate::prove::with_causes;
use backstay_format::facts::{Audit, AuditAct};
use backstay_model::{Moment, SignerKey};
use backstay_store::repo::{Chain, RepoError, Signing};

/// How often another process of the same signer may be quicker.
const ATTEMPTS: u32 = 4;

/// Appends an act to the chain of this host's signer.
pub async fn record(vault: &Vault, act: AuditAct) -> Result<(), OpsError> {
    let signer = vault.signer.as_ref().ok_or(OpsError::NotEnrolled { role: "anything" })?;
    if !vault.repo.conf().allows(&signer.public(), &backstay_format::facts::Role::ALL) {
        return Err(OpsError::NotEnrolled { role: "anything" });
    }
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        let known = vault.repo.audit(&signer.public()).await?;
        let chain = match known.last() {
            None => Chain::START,
            Some(last) => Chain::after(last.chain.sequence, last.digest).ok_or(backstay_model::backup::Exhausted)?,
        };
        let facts = Audit { signer: signer.public(), at: vault.env.clock.now(), act: act.clone() };
        let signing = Signing { key: signer, id: vault.repo.fresh_id(vault.env.random.as_ref()) };
        match vault.repo.put_audit(facts, chain, signing).await {
            Err(RepoError::LostRace { .. }) if attempts > 0 => {}
            other => return Ok(other?),
        }
    }
}

/// The same after an act that stands whether it is recorded or not: what kept it from being so, in words.
pub async fn note(vault: &Vault, act: AuditAct) -> Option<String> {
    record(vault, act).await.err().map(|error| with_causes(&error))
}

/// One record, as a list shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Entry {
    pub at: Moment,
    pub number: u64,
    pub signer: SignerKey,
    /// What the signer is called.
    pub name: String,
    #[serde(flatten)]
    pub act: AuditAct,
}

/// A signer whose chain does not hold together.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Broken {
    pub signer: SignerKey,
    pub name: String,
    pub problem: String,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct AuditReport {
    /// Oldest first.
    pub records: Vec<Entry>,
    pub broken: Vec<Broken>,
}

/// Every record of every signer there is or was. One chain that cannot be verified hides no other.
pub async fn read(vault: &Vault) -> Result<AuditReport, OpsError> {
    let mut report = AuditReport { records: Vec::new(), broken: Vec::new() };
    for signer in &vault.repo.conf().signers {
        match vault.repo.audit(&signer.key).await {
            Ok(records) => report.records.extend(records.into_iter().map(|record| Entry {
                at: record.facts.at,
                number: record.chain.sequence.get(),
                signer: signer.key,
                name: signer.name.clone(),
                act: record.facts.act,
            })),
            Err(error) if error.is_outage() => return Err(error.into()),
            Err(error) => report.broken.push(Broken {
                signer: signer.key,
                name: signer.name.clone(),
                problem: with_causes(&error),
            }),
        }
    }
    report.records.sort_by_key(|entry| (entry.at, entry.signer, entry.number));
    Ok(report)
}
