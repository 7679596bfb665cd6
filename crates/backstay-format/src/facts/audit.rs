//! Audit records: acts that somebody should be able to ask about a year later.

use super::Role;
use backstay_model::{Digest, Moment, SignerKey, SourceName};
use serde::{Deserialize, Serialize};

/// `ctl/audit/<signer>/<n>`: something a person or a keeper did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    pub signer: SignerKey,
    pub at: Moment,
    pub act: AuditAct,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum AuditAct {
    /// A copy of the key held elsewhere was shown to open the repository.
    KeyConfirmed {
        master: String,
    },
    /// The master identity was wrapped to one more recipient.
    RecipientAdded {
        generation: u64,
        name: String,
    },
    /// There is a new master, which this recipient was not given.
    RecipientRemoved {
        generation: u64,
        name: String,
        master: String,
    },
    /// There is a new master, which everybody was given who had the one before.
    MasterRotated {
        generation: u64,
        master: String,
    },
    SignerEnrolled {
        generation: u64,
        key: SignerKey,
        name: String,
        roles: Vec<Role>,
    },
    SignerRemoved {
        generation: u64,
        key: SignerKey,
        name: String,
    },
    /// A source's fingerprint key was given to another host.
    SourceHandedOver {
        source: SourceName,
        to: String,
    },
    /// A turn somebody else had not given back was asked for. The time the store gives this record
    /// says whether that turn was over.
    LeaseContested {
        scope: String,
        number: u64,
    },
    /// A scrub put the bytes of an object, with this digest, in the place of damaged ones.
    ObjectHealed {
        object: String,
        digest: Digest,
    },
    /// Snapshots that were sealed to a master of before were sealed to this one instead.
    SnapshotsRewritten {
        master: String,
        snapshots: u64,
    },
    /// What lives in packs that were mostly dead was stored again, and these snapshots refer to it there.
    PacksRepacked {
        source: SourceName,
        snapshots: u64,
        packs: u64,
    },
    /// The key was written into a recovery kit.
    KitMade {
        master: String,
    },
}
