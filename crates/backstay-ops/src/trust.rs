//! Who is trusted: enrolling the key of a host, and removing one without losing what it signed.
//!
//! One object decides, the next configuration: before it is there nothing has changed, after it
//! everything has. A crash between it and what follows leaves a missing audit record, and nothing else.

use crate::OpsError;
use crate::catalog::Vault;
use crate::journal;
use backstay_format::facts::{AuditAct, Conf, Enrolment, Recipient, Retired, Role, Signer, Until, is_plain_name};
use backstay_model::{Kind, Kinded, SignerKey, SourceName};
use backstay_store::repo::{NewWrap, Repository};
use backstay_store::seal::ssh::SshRecipient;
use backstay_store::seal::wrap::Lock;
use backstay_store::seal::{Master, MasterIdentity, SealError};
use backstay_store::signing::{self, SigningKey};
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("the key file holds no root signing key")]
    NoRoot,
    #[error("the request's signature does not hold: it was changed, or its host does not have that key")]
    BadRequest,
    #[error("{name:?} is no name: 1 to 64 characters in one line")]
    BadName { name: String },
    #[error("there is a {what} called {name:?} already")]
    NameTaken { what: &'static str, name: String },
    #[error("the key {key} was removed; a removed key is never enrolled again")]
    WasRemoved { key: SignerKey },
    #[error("the key {key} is enrolled already, as {name:?}")]
    IsEnrolled { key: SignerKey, name: String },
    #[error("there is no {what} called {name:?}; there is {}", if have.is_empty() { "none".to_owned() } else { have.join(", ") })]
    Unknown { what: &'static str, name: String, have: Vec<String> },
    #[error("{name:?} is the key this command itself signs with")]
    OwnKey { name: String },
    #[error("without {name:?} this key file could not open the repository any more")]
    OwnRecipient { name: String },
    #[error("the repository is unsealed: its master identity is published, there is nobody to keep it from")]
    Unsealed,
    #[error("the passphrase of {name:?} is needed to wrap the new master for it")]
    PassphraseNeeded { name: String },
    #[error("the key does not come from a file, so the new one needs a file to go to")]
    NowhereToWrite,
    #[error("this host neither wrote the newest snapshot of {source_name} nor can read it")]
    NothingToHand { source_name: SourceName },
    #[error("{} cannot be taken: {why}", path.display())]
    BadAnswer { path: PathBuf, why: &'static str },
    #[error("{text:?} is no recipient the master can be wrapped to")]
    BadRecipient {
        text: String,
        #[source]
        source: SealError,
    },
}

impl Kinded for TrustError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoRoot | Self::BadRequest => Kind::Denied,
            Self::NameTaken { .. } | Self::WasRemoved { .. } | Self::IsEnrolled { .. } => Kind::Conflict,
            _ => Kind::Usage,
        }
    }
}

/// Whoever holds the root key, and with it decides who is trusted.
pub struct Custodian<'a> {
    pub vault: &'a Vault,
    pub root: &'a SigningKey,
}

impl Custodian<'_> {
    /// Signs the next configuration: the present one with one change.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut Conf)) -> Result<Repository, OpsError> {
        let vault = self.vault;
        let mut conf = vault.repo.conf().clone();
        conf.generation = conf.generation.checked_add(1).ok_or(backstay_model::backup::Exhausted)?;
        conf.created = vault.env.clock.now();
        change(&mut conf);
        let repo = vault.repo.put_conf(self.root, conf, vault.env.random.as_ref()).await?;
        // It is done; a state folder that takes no more remembers it with the next command.
        let _ = vault.state.remember_conf(repo.seen());
        let _ = vault.state.keep_conf(repo.conf_bytes());
        Ok(repo)
    }

    /// The present master identity, and those before it.
    pub(crate) fn masters(&self) -> Result<&[MasterIdentity], OpsError> {
        let identities = self.vault.unsealer()?.identities();
        let present = identities.first().is_some_and(|first| first.master().text() == self.vault.repo.conf().master);
        if present { Ok(identities) } else { Err(backstay_store::repo::RepoError::NoIdentity.into()) }
    }

    /// Wraps the present master to somebody.
    pub(crate) async fn wrap_present(&self, name: &str, to: &Receiver) -> Result<Recipient, OpsError> {
        let (vault, masters) = (self.vault, self.masters()?);
        let present = masters.get(..1).unwrap_or_default();
        let new = NewWrap { master: vault.repo.master(), holds: present, to: to.lock() };
        let wrap = vault.repo.put_wrap(new, vault.env.random.as_ref()).await?;
        Ok(Recipient { name: name.to_owned(), recipient: to.text(), wrap })
    }
}

/// Somebody the master is to be wrapped to.
pub enum Receiver {
    Identity(Master),
    Ssh(SshRecipient),
    Passphrase(String),
}

impl Receiver {
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let bad = |source| TrustError::BadRecipient { text: text.to_owned(), source };
        match SshRecipient::is_meant(text) {
            true => SshRecipient::parse(text).map(Self::Ssh).map_err(bad),
            false => Master::parse(text).map(Self::Identity).map_err(bad),
        }
    }

    pub(crate) fn lock(&self) -> Lock<'_> {
        match self {
            Self::Identity(master) => Lock::Recipient(master),
            Self::Ssh(recipient) => Lock::Ssh(recipient),
            Self::Passphrase(words) => Lock::Passphrase(words),
        }
    }

    fn text(&self) -> Option<String> {
        match self {
            Self::Identity(master) => Some(master.text().to_owned()),
            Self::Ssh(recipient) => Some(recipient.text().to_owned()),
            Self::Passphrase(_) => None,
        }
    }
}

/// A host to be enrolled, and with which roles: those it asked for are only a wish.
pub struct Enrol<'a> {
    pub asked: &'a Enrolment,
    pub roles: &'a [Role],
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct EnrolReport {
    pub name: String,
    pub key: SignerKey,
    pub roles: Vec<Role>,
    pub generation: u64,
    /// Whether the master was wrapped to it, so that it can read.
    pub can_read: bool,
    /// What kept the act from the audit.
    pub not_recorded: Option<String>,
}

/// Enrols the host a request came from.
pub async fn enrol(custodian: &Custodian<'_>, new: Enrol<'_>) -> Result<EnrolReport, OpsError> {
    let (vault, request) = (custodian.vault, &new.asked.request);
    check_request(vault.repo.conf(), new.asked)?;
    let reads = new.roles.contains(&Role::Reader) && !vault.repo.is_unsealed();
    let recipient = match request.recipient.as_deref().filter(|_| reads) {
        Some(text) => {
            refuse_taken(vault.repo.conf(), &request.name)?;
            Some(custodian.wrap_present(&request.name, &Receiver::parse(text)?).await?)
        }
        None => None,
    };
    let can_read = recipient.is_some();
    let (key, name, roles) = (request.key, request.name.clone(), new.roles.to_vec());
    let signer = Signer { key, name: name.clone(), roles: roles.clone(), retired: None };
    let repo = custodian
        .change(|conf| {
            conf.signers.push(signer);
            conf.recipients.extend(recipient);
        })
        .await?;
    let generation = repo.conf().generation;
    let act = AuditAct::SignerEnrolled { generation, key, name: name.clone(), roles: roles.clone() };
    let not_recorded = journal::note(vault, act).await;
    Ok(EnrolReport { name, key, roles, generation, can_read, not_recorded })
}

fn check_request(conf: &Conf, asked: &Enrolment) -> Result<(), TrustError> {
    let request = &asked.request;
    let signature = asked.signature_bytes().ok_or(TrustError::BadRequest)?;
    if !signing::verify(&request.key, &request.message(), &signature) {
        return Err(TrustError::BadRequest);
    }
    if !is_plain_name(&request.name) {
        return Err(TrustError::BadName { name: request.name.clone() });
    }
    match conf.signers.iter().find(|signer| signer.key == request.key) {
        Some(signer) if signer.retired.is_some() => return Err(TrustError::WasRemoved { key: request.key }),
        Some(signer) => return Err(TrustError::IsEnrolled { key: request.key, name: signer.name.clone() }),
        None => {}
    }
    match conf.signer_named(&request.name) {
        Some(_) => Err(TrustError::NameTaken { what: "signer", name: request.name.clone() }),
        None => Ok(()),
    }
}

/// Refuses a name that a recipient has.
pub(crate) fn refuse_taken(conf: &Conf, name: &str) -> Result<(), TrustError> {
    if !is_plain_name(name) {
        return Err(TrustError::BadName { name: name.to_owned() });
    }
    match conf.recipient_named(name) {
        Some(_) => Err(TrustError::NameTaken { what: "recipient", name: name.to_owned() }),
        None => Ok(()),
    }
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct RemovalReport {
    pub name: String,
    pub key: SignerKey,
    pub generation: u64,
    /// Up to where what it signed is still believed.
    pub until: Vec<Until>,
    /// Whether a recipient of the same name can still open the master.
    pub still_reads: bool,
    pub not_recorded: Option<String>,
}

/// Removes a signer: from now on nothing new of it is believed. What it has signed stays.
pub async fn remove_signer(custodian: &Custodian<'_>, name: &str) -> Result<RemovalReport, OpsError> {
    let vault = custodian.vault;
    let conf = vault.repo.conf();
    let Some(signer) = conf.signer_named(name).cloned() else {
        let have = conf.signers.iter().filter(|s| s.retired.is_none()).map(|s| s.name.clone()).collect();
        return Err(TrustError::Unknown { what: "signer", name: name.to_owned(), have }.into());
    };
    if vault.signer.as_ref().is_some_and(|own| own.public() == signer.key) {
        return Err(TrustError::OwnKey { name: name.to_owned() }.into());
    }
    let until = vault.repo.last_words(&signer.key).await?;
    let retired = Retired { at: vault.env.clock.now(), until: until.clone() };
    let retire = |conf: &mut Conf| {
        for found in conf.signers.iter_mut().filter(|s| s.key == signer.key) {
            found.retired = Some(retired.clone());
        }
    };
    let repo = custodian.change(retire).await?;
    let (name, generation) = (signer.name.clone(), repo.conf().generation);
    let still_reads = conf.recipient_named(&name).is_some();
    let not_recorded =
        journal::note(vault, AuditAct::SignerRemoved { generation, key: signer.key, name: name.clone() }).await;
    Ok(RemovalReport { name, key: signer.key, generation, until, still_reads, not_recorded })
}
