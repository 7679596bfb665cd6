//! The next configuration: written by whoever holds the root key, and where a removed signer's chains end.

use super::records::{self, Record};
use super::{Chain, RepoError, Repository};
use crate::keys::{self, LogName};
use crate::seam::{Entry, Key};
use crate::signing::SigningKey;
use backstay_format::ObjectType;
use backstay_format::facts::{self, Conf, Until};
use backstay_model::{Digest, Random, Sequence, SignerKey, SourceName};

impl Repository {
    /// Signs the next generation and puts it into its dense slot: the one act that changes who is trusted
    /// and to whom data is sealed. Another root holder who was quicker is a lost race; nothing is mixed.
    pub async fn put_conf(&self, root: &SigningKey, conf: Conf, random: &dyn Random) -> Result<Self, RepoError> {
        if root.public() != self.root {
            let key = keys::conf(conf.generation).to_string();
            return Err(RepoError::OtherRoot { key, pinned: self.root, found: root.public() });
        }
        let key = keys::conf(conf.generation);
        let next = self.seen.generation.checked_add(1);
        let chain = Sequence::new(self.seen.generation).next().and_then(|own| Chain::after(own, self.seen.digest));
        let (Some(chain), true) = (chain, next == Some(conf.generation)) else {
            return Err(RepoError::misplaced(&key, "it does not follow the newest configuration"));
        };
        let draft = records::Draft {
            kind: ObjectType::Conf,
            repo: self.id,
            object: self.fresh_id(random),
            chain,
            facts: facts::encode(&conf),
        };
        let bytes = draft.sign(root);
        self.put_slot(&key, bytes.clone()).await?;
        Self::with_conf(self.store.clone(), self.root, Some(self.seen), (conf.generation, &key, bytes))
    }

    /// Whether the store shows a configuration newer than this one.
    pub async fn is_outdated(&self) -> Result<bool, RepoError> {
        let page = self.list_page(keys::CONF_PREFIX, Some(&keys::conf(self.seen.generation)), 2).await?;
        Ok(page.entries.iter().any(|entry| keys::slot_number(&entry.key).is_some()))
    }

    /// Every source with something below it, one listing request each.
    pub async fn sources(&self) -> Result<Vec<SourceName>, RepoError> {
        let (mut sources, mut after): (Vec<SourceName>, Option<Key>) = (Vec::new(), None);
        loop {
            let page = self.list_page(keys::SOURCES_PREFIX, after.as_ref(), 1).await?;
            let Some(Entry { key, .. }) = page.entries.first() else { return Ok(sources) };
            let folder = keys::folder_of(key);
            let source = folder.as_ref().and_then(|(folder, _)| folder.parse().ok());
            sources.extend(source.filter(|source| sources.last() != Some(source)));
            after = Some(folder.map_or_else(|| key.clone(), |(_, past)| past.max(key.clone())));
        }
    }

    /// The last object of a signer in each chain it wrote in: what it signed until now, and no more, is to
    /// be believed when it is removed. What cannot be verified is none of its.
    pub async fn last_words(&self, signer: &SignerKey) -> Result<Vec<Until>, RepoError> {
        let mut ends = Ends::default();
        for source in self.sources().await? {
            for (name, front) in self.all_fronts(&source).await? {
                match front {
                    Ok(front) => {
                        if front.signer == *signer {
                            ends.add(keys::snapshot_prefix(&source), name.sequence, front.digest);
                        }
                        if let Some(rewriting) = front.rewriting.filter(|rewriting| rewriting.signer == *signer) {
                            let sequence = Sequence::new(name.generation.get());
                            ends.add(keys::rewritten_chain(&source), sequence, rewriting.digest);
                        }
                    }
                    Err(error) if error.is_outage() => return Err(error),
                    _ => {}
                }
            }
            self.add_slots(&mut ends, &keys::branch_prefix(&source), ObjectType::Branch, signer).await?;
            for mark in self.marks(&source).await?.records.iter().filter(|mark| mark.signer == *signer) {
                ends.add(keys::mark_prefix(&source), mark.chain.sequence, mark.digest);
            }
        }
        self.add_slots(&mut ends, keys::PRUNE_PREFIX, ObjectType::Prune, signer).await?;
        self.add_slots(&mut ends, &keys::lease_prefix(keys::Scope::Prune), ObjectType::Lease, signer).await?;
        self.add_streams(&mut ends, signer).await?;
        if let Some(last) = self.audit(signer).await?.last() {
            ends.add(keys::audit_prefix(signer), last.chain.sequence, last.digest);
        }
        Ok(ends.0)
    }

    /// A stream of log objects belongs to one writer: the newest that can be read says to whom. What of it was
    /// sealed again is a chain of its own.
    async fn add_streams(&self, ends: &mut Ends, signer: &SignerKey) -> Result<(), RepoError> {
        let mut done: Option<String> = None;
        for entry in self.list(keys::LOGS_PREFIX).await?.iter().rev() {
            if let keys::Place::RollUp(name) = keys::Place::of(&entry.key) {
                self.add_resealed(ends, signer, &name).await?;
                continue;
            }
            let Some((stream, _)) = entry.key.as_str().rsplit_once('/') else { continue };
            if done.as_deref() == Some(stream) || keys::slot_number(&entry.key).is_none() {
                continue;
            }
            let bytes = self.store.get(&entry.key).await?;
            let Ok(record) = Record::<serde_json::Value>::parse(&entry.key, &bytes, ObjectType::Log) else { continue };
            done = Some(stream.to_owned());
            if record.signer == *signer && record.repo == self.id {
                ends.add(format!("{stream}/"), record.chain.sequence, record.digest);
            }
        }
        Ok(())
    }

    async fn add_resealed(&self, ends: &mut Ends, signer: &SignerKey, name: &LogName) -> Result<(), RepoError> {
        if !name.is_resealed() {
            return Ok(());
        }
        match self.log_front_of(name).await {
            Ok(Some(front)) if front.signer == *signer => {
                ends.add(keys::resealed_chain(&name.stream), name.first, front.digest);
            }
            Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error),
            _ => {}
        }
        Ok(())
    }

    /// Looks from the newest slot back for the last one of a signer.
    async fn add_slots(
        &self,
        ends: &mut Ends,
        prefix: &str,
        kind: ObjectType,
        signer: &SignerKey,
    ) -> Result<(), RepoError> {
        for entry in self.list(prefix).await?.iter().rev() {
            let bytes = self.store.get(&entry.key).await?;
            let Ok(record) = Record::<serde_json::Value>::parse(&entry.key, &bytes, kind) else { continue };
            if record.signer == *signer && record.repo == self.id {
                ends.add(prefix.to_owned(), record.chain.sequence, record.digest);
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The highest of each chain. Two runs of a signer may have ended a chain beside each other: then both.
#[derive(Default)]
struct Ends(Vec<Until>);

impl Ends {
    fn add(&mut self, below: String, sequence: Sequence, digest: Digest) {
        let higher = |until: &Until| until.below == below && until.sequence > sequence;
        if self.0.iter().any(higher) {
            return;
        }
        self.0.retain(|until| until.below != below || until.sequence == sequence);
        self.0.push(Until { below, sequence, digest });
    }
}
