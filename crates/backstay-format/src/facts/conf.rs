//! The configuration: who may do what, who did what until when, and to whom data is sealed.

use backstay_model::{Digest, Moment, ObjectId, Sequence, SignerKey};
use serde::{Deserialize, Serialize};

/// `ctl/conf/<n>`: who may do what, and to whom objects are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conf {
    pub generation: u64,
    /// When this generation was signed.
    pub created: Moment,
    /// The master identity's public half (`age1…`): every data key is wrapped to it.
    pub master: String,
    /// The identities of the masters before, the newest first, wrapped to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older: Option<Wrapped>,
    /// Present in an unsealed repository only: the master identity itself, for anyone to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_identity: Option<String>,
    /// To whom the master identity is wrapped, besides those who hold it itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<Recipient>,
    pub signers: Vec<Signer>,
    pub store: StoreAbilities,
}

/// Somebody to whom the master identity is wrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    pub name: String,
    /// `age1…` or `ssh-ed25519 …`; absent for a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    pub wrap: Wrapped,
}

/// `ctl/master/<master>/<id>.age`, and the digest of its bytes, so that nobody puts another in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped {
    pub id: ObjectId,
    pub digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    pub key: SignerKey,
    pub name: String,
    pub roles: Vec<Role>,
    /// Present once it was removed: what it signed until then stands, and nothing after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Retired>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Writer,
    Keeper,
    Reader,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Writer, Role::Keeper, Role::Reader];

    pub const fn word(self) -> &'static str {
        match self {
            Role::Writer => "writer",
            Role::Keeper => "keeper",
            Role::Reader => "reader",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    pub at: Moment,
    /// The ends of the chains it wrote in. Where there is none, nothing of it is accepted.
    pub until: Vec<Until>,
}

/// The last object of a removed signer in one chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Until {
    /// What the names in that chain begin with, such as `data/shop/snap/`.
    pub below: String,
    pub sequence: Sequence,
    pub digest: Digest,
}

/// What the probe at `init` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAbilities {
    pub conditional_put: bool,
}

impl Conf {
    /// Whether a signer is enrolled for one of these roles now.
    pub fn allows(&self, signer: &SignerKey, roles: &[Role]) -> bool {
        self.signers.iter().any(|s| s.key == *signer && s.retired.is_none() && s.may(roles))
    }

    /// Whether an object of this name, at this place of its chain, was signed by somebody who was
    /// enrolled for one of `roles` then.
    pub fn accepts(&self, signer: &SignerKey, roles: &[Role], object: (&str, Sequence, Digest)) -> bool {
        self.signers.iter().filter(|s| s.key == *signer && s.may(roles)).any(|s| match &s.retired {
            None => true,
            Some(retired) => retired.until.iter().any(|until| until.covers(object)),
        })
    }

    /// The number at which a removed signer's chain ends; `None` for a signer who is enrolled, whose chain
    /// goes on. One that never wrote into it ends at 0.
    pub fn last_of(&self, signer: &SignerKey, below: &str) -> Option<u64> {
        let of_it = || self.signers.iter().filter(|s| s.key == *signer);
        if of_it().any(|s| s.retired.is_none()) {
            return None;
        }
        let ends = of_it().filter_map(|s| s.retired.as_ref()).flat_map(|retired| &retired.until);
        Some(ends.filter(|until| until.below == below).map(|until| until.sequence.get()).max().unwrap_or(0))
    }

    /// The recipient of this name.
    pub fn recipient_named(&self, name: &str) -> Option<&Recipient> {
        self.recipients.iter().find(|r| r.name == name)
    }

    /// The signer of this name who is still enrolled.
    pub fn signer_named(&self, name: &str) -> Option<&Signer> {
        self.signers.iter().find(|s| s.retired.is_none() && s.name == name)
    }
}

impl Signer {
    fn may(&self, roles: &[Role]) -> bool {
        self.roles.iter().any(|role| roles.contains(role))
    }
}

impl Until {
    /// Before the end any object of that chain; at the end that one object alone.
    fn covers(&self, (name, sequence, digest): (&str, Sequence, Digest)) -> bool {
        let before = sequence < self.sequence;
        name.starts_with(&self.below) && (before || sequence == self.sequence && digest == self.digest)
    }
}

/// Whether a name of a person or host can stand in a line: 1 to 64 characters, no control characters,
/// no space at either end.
pub fn is_plain_name(name: &str) -> bool {
    (1..=64).contains(&name.chars().count()) && name.trim() == name && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(retired: Option<Retired>) -> Conf {
        let signer =
            Signer { key: SignerKey::from_bytes([1; 32]), name: "db-1".into(), roles: vec![Role::Writer], retired };
        Conf {
            generation: 0,
            created: Moment::from_millis(0).expect("in range"),
            master: String::new(),
            older: None,
            published_identity: None,
            recipients: Vec::new(),
            signers: vec![signer],
            store: StoreAbilities { conditional_put: true },
        }
    }

    #[test]
    fn a_removed_signer_is_believed_to_the_end_of_its_chain_and_no_further() {
        let (key, last) = (SignerKey::from_bytes([1; 32]), Digest::from_bytes([7; 32]));
        let until = Until { below: "data/shop/snap/".into(), sequence: Sequence::new(5), digest: last };
        let at = Moment::from_millis(0).expect("in range");
        let removed = conf(Some(Retired { at, until: vec![until] }));
        let other = Digest::from_bytes([8; 32]);
        let said =
            |name, sequence, digest| removed.accepts(&key, &[Role::Writer], (name, Sequence::new(sequence), digest));
        assert!(said("data/shop/snap/x", 4, other) && said("data/shop/snap/x", 5, last));
        assert!(!said("data/shop/snap/x", 5, other), "another object in the place of its last");
        assert!(!said("data/shop/snap/x", 6, last));
        assert!(!said("data/other/snap/x", 1, other), "a source it never wrote");
        assert!(!removed.accepts(&key, &[Role::Reader], ("data/shop/snap/x", Sequence::new(1), other)));
        assert!(!removed.allows(&key, &[Role::Writer]), "and it signs nothing new");
        let enrolled = conf(None);
        assert!(enrolled.allows(&key, &[Role::Writer]) && !enrolled.allows(&key, &[Role::Reader, Role::Keeper]));
        assert!(enrolled.accepts(&key, &[Role::Writer], ("data/other/snap/x", Sequence::new(9), other)));
    }

    #[test]
    fn names_that_break_a_line_are_not_plain() {
        assert!(is_plain_name("db-host-2") && is_plain_name("Ada Ü."));
        for bad in ["", " a", "a ", "a\nb", "a\u{1b}[2J", &"x".repeat(65)] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }
}
