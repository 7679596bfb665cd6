//! Holds: a snapshot that no retention frees until the hold is taken back. Both are marks.
//!
//! A hold counts once its mark is durable, unless a prune condemned the snapshot while it was put: that is
//! looked up afterwards, and said.

use super::{newest, record};
use crate::OpsError;
use crate::catalog::{Catalog, Vault};
use crate::prove::{About, put_mark};
use backstay_model::catalog::{MarkKind, Target};
use backstay_model::{Moment, ObjectId, SourceName};
use backstay_store::repo::ManifestFront;
use std::collections::HashSet;

#[derive(Debug, Clone)]
pub struct HoldRequest {
    pub source: SourceName,
    pub target: Target,
    /// Why, for whoever looks later.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct HoldReport {
    pub source: SourceName,
    pub snapshot: ObjectId,
    pub taken: Moment,
    pub held: bool,
    /// The reasons of the holds: of the one that was put, or of those that were taken back.
    pub reasons: Vec<String>,
}

/// Puts a hold on a snapshot.
pub async fn hold(vault: &Vault, request: &HoldRequest) -> Result<HoldReport, OpsError> {
    let mut catalog = vault.catalog(&request.source).await?;
    let snapshot = catalog.choose(&request.target)?;
    let front = catalog.front(&snapshot.id).expect("every snapshot of a catalog has its front");
    put(vault, &catalog, front, (MarkKind::Pinned, None, request)).await?;
    if newest(vault).await?.is_some_and(|head| record::condemns(&head.record.facts, &request.source, &snapshot)) {
        return Err(OpsError::Condemned { snapshot: snapshot.id });
    }
    Ok(HoldReport {
        source: request.source.clone(),
        snapshot: snapshot.id,
        taken: snapshot.taken,
        held: true,
        reasons: request.reason.iter().cloned().collect(),
    })
}

/// Takes every hold on a snapshot back.
pub async fn release(vault: &Vault, request: &HoldRequest) -> Result<HoldReport, OpsError> {
    let mut catalog = vault.catalog(&request.source).await?;
    let snapshot = catalog.choose(&request.target)?;
    let holds = holds(&catalog, &snapshot.id);
    if holds.is_empty() {
        return Err(OpsError::NotHeld { snapshot: snapshot.id });
    }
    let mut reasons = Vec::new();
    for (id, reason) in holds {
        // Each mark follows the one before it, so the marks are read anew.
        let fresh = vault.catalog(&request.source).await?;
        let front = fresh.front(&snapshot.id).ok_or(OpsError::Condemned { snapshot: snapshot.id })?;
        put(vault, &fresh, front, (MarkKind::Released, Some(id), request)).await?;
        reasons.extend(reason);
    }
    Ok(HoldReport {
        source: request.source.clone(),
        snapshot: snapshot.id,
        taken: snapshot.taken,
        held: false,
        reasons,
    })
}

/// The holds on a snapshot that were not taken back, each with its reason.
fn holds(catalog: &Catalog, snapshot: &ObjectId) -> Vec<(ObjectId, Option<String>)> {
    let Some(front) = catalog.front(snapshot) else { return Vec::new() };
    let released: HashSet<ObjectId> = catalog.about(front).filter_map(|mark| mark.facts.releases).collect();
    let held =
        catalog.about(front).filter(|mark| mark.facts.kind == MarkKind::Pinned && !released.contains(&mark.object));
    let reason = |evidence: &serde_json::Value| evidence.get("reason")?.as_str().map(str::to_owned);
    held.map(|mark| (mark.object, reason(&mark.facts.evidence))).collect()
}

async fn put(
    vault: &Vault,
    catalog: &Catalog,
    front: &ManifestFront,
    (kind, releases, request): (MarkKind, Option<ObjectId>, &HoldRequest),
) -> Result<(), OpsError> {
    let mut evidence = serde_json::Map::new();
    if let Some(reason) = &request.reason {
        evidence.insert("reason".to_owned(), reason.clone().into());
    }
    let about = About { front, kind, releases, evidence: evidence.into(), at: vault.env.clock.now() };
    put_mark(vault, catalog, about).await
}
