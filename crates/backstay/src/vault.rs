//! From settings to an open repository: the store with its decorators, the key material, this host's memory.
//!
//! Everything a command does with backups goes through what [`open`] returns. Must never: make a repository (that
//! is `init`'s), believe one whose root is not the pinned one, keep key material longer than the command runs.

use crate::config::aws::{self, Finder};
use crate::config::secret::COMMAND_TIME;
use crate::config::settings::{Limits, RepositoryLocation, Threads};
use crate::config::store::StoreSettings;
use crate::config::{Env as Variables, KeySource, Settings, azure, gcs, raw};
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use crate::output::{Distance, Progress};
use backstay_format::layout::PACK_MAX;
use backstay_model::{ByteLen, Kind, Random, SignerKey, SourceName};
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::trust::{Custodian, TrustError};
use backstay_ops::{Env, Event, OpsError, State};
use backstay_store::Store;
use backstay_store::cloud::{CloudOptions, CloudStore, Place, Provider, Reach, S3, Service};
use backstay_store::foresee::{Foreseen, Host, Trail};
use backstay_store::kept::Kept;
use backstay_store::keyfile::KeyFile;
use backstay_store::limit::{Bounds, Limit, Rates};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::meter::Meter;
use backstay_store::os::OsRandom;
use backstay_store::repo::RepoError;
use backstay_store::retry::{Patience, Retry};
use backstay_store::seal::{MasterIdentity, Unsealer};
use backstay_store::signing::SigningKey;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Opens the repository the settings name, with the keys this host has.
pub async fn open(context: &Context, settings: &Settings) -> Result<Vault, Diagnostic> {
    let keys = load_keys(context, settings.key.as_ref()).await?;
    let store = store(context, &Reached::of(settings), OpenMode::Existing).await?;
    open_with(context, settings, store, keys).await
}

/// A vault for whoever asks a source's past, and what was read of it first.
pub struct Asked {
    pub vault: Vault,
    source: SourceName,
    foreseen: Arc<Foreseen>,
}

impl Asked {
    /// Leaves a trail for the next who asks.
    pub fn leave_trail(&self) {
        // A full or read-only state folder must not stand between a person and an answer.
        let _ = self.vault.state.keep_trail(&self.source, &self.foreseen.trail());
    }
}

/// The same for whoever asks a source's past: what opening it takes is asked for at once, and what was read of packs
/// is kept, sealed as it is, for the next who asks.
pub async fn open_to_ask(
    context: &Context,
    settings: &Settings,
    (source, keep): (&SourceName, Keep),
) -> Result<Asked, Diagnostic> {
    let keys = load_keys(context, settings.key.as_ref()).await?;
    let bare = store(context, &Reached::of(settings), OpenMode::Existing).await?;
    let kept = || Kept::open(bare.clone(), &settings.state_dir.join(KEPT), KEPT_MAX);
    // A full or read-only state folder must not stand between a person and an answer.
    let store: Arc<dyn Store> = match (keep == Keep::OnDisk).then(kept) {
        Some(Ok(kept)) => Arc::new(kept),
        _ => bare.clone(),
    };
    let trail = || State::trails(&settings.state_dir, source).into_iter().find(|trail| trail.is_of(store.as_ref()));
    let host = match State::remembers(&settings.state_dir, source) {
        true => Host::Remembers(trail().unwrap_or_default()),
        false => Host::Blank,
    };
    let foreseen = Arc::new(Foreseen::of_source(store, (source, host)));
    let vault = open_with(context, settings, foreseen.clone(), keys).await?;
    Ok(Asked { vault, source: source.clone(), foreseen })
}

/// The same for whoever goes back to a state of a source once: what finding it takes is asked for at once.
pub async fn open_for(context: &Context, settings: &Settings, source: &SourceName) -> Result<Vault, Diagnostic> {
    let keys = load_keys(context, settings.key.as_ref()).await?;
    let store = store(context, &Reached::of(settings), OpenMode::Existing).await?;
    let host = match State::remembers(&settings.state_dir, source) {
        true => Host::Remembers(Trail::default()),
        false => Host::Blank,
    };
    open_with(context, settings, Arc::new(Foreseen::of_source(store, (source, host))), keys).await
}

/// Whether what was read may be kept on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    OnDisk,
    Nothing,
}

/// In the state folder, for all repositories: names in them are used once.
const KEPT: &str = "kept";
const KEPT_MAX: u64 = 256 << 20;

/// Whoever holds the root key, with everything a change of trust needs.
pub struct RootHolder {
    pub vault: Vault,
    pub root: SigningKey,
    /// The key file as it was read.
    pub keys: KeyFile,
}

impl RootHolder {
    pub async fn open(context: &Context, settings: &Settings) -> Result<Self, Diagnostic> {
        let keys = load_keys(context, settings.key.as_ref()).await?;
        let root = keys.root.clone().ok_or(TrustError::NoRoot).map_err(OpsError::from)?;
        let store = store(context, &Reached::of(settings), OpenMode::Existing).await?;
        let vault = open_with(context, settings, store, keys.clone()).await?;
        Ok(Self { vault, root, keys })
    }

    pub fn custodian(&self) -> Custodian<'_> {
        Custodian { vault: &self.vault, root: &self.root }
    }
}

/// The same over a store and keys that are at hand already.
pub async fn open_with(
    context: &Context,
    settings: &Settings,
    store: Arc<dyn Store>,
    keys: KeyFile,
) -> Result<Vault, Diagnostic> {
    let root = pinned_root(settings, &keys)?;
    let copies = settings.copies.values().filter_map(|copy| copy.store.lock).collect();
    let repo = backstay_ops::open::open(store, root, &settings.state_dir).await?;
    let repo = repo.with_lock(settings.store.lock).with_locks_of_copies(copies);
    let env = env(context, &settings.limits);
    let state = State::open(env.disk.clone(), &settings.state_dir, repo.id()).map_err(OpsError::from)?;
    match repo.conf_fault() {
        None => {
            state.remember_conf(repo.seen()).map_err(OpsError::from)?;
            // A full or read-only state folder must not stand between a person and a restore.
            let _ = state.keep_conf(repo.conf_bytes());
        }
        Some(fault) => warn_of_conf(context, fault),
    }
    let unsealer = match (keys.opens(), &repo.conf().published_identity) {
        // Unsealed on purpose: the key is in the repository for anyone to read.
        (false, Some(text)) => Some(Unsealer::new(MasterIdentity::parse(text).map_err(Diagnostic::from)?)),
        (false, None) => None,
        (true, _) => Some(Unsealer::of(repo.unlock_for(&keys).await?.masters)),
    };
    // What this host learns of a copy's bytes is no fact about the snapshots: it marks nothing there.
    let signer = keys.signer.filter(|_| settings.standing_in.is_none());
    Ok(Vault { repo, state, signer, unsealer, env })
}

fn warn_of_conf(context: &Context, fault: &RepoError) {
    let said = backstay_ops::prove::with_causes(fault);
    context.printer.warn(&format!(
        "THE REPOSITORY'S CONFIGURATION CANNOT BE USED: {said}; this host goes on with the copy it keeps, other hosts \
         cannot open the repository: run `backstay check`"
    ));
}

/// The root written into the configuration; without one, the key file's own.
pub fn pinned_root(settings: &Settings, keys: &KeyFile) -> Result<SignerKey, Diagnostic> {
    let of_key = keys.root.as_ref().map(SigningKey::public);
    settings.root.or(of_key).ok_or_else(|| {
        Diagnostic::new(Kind::Config, format!("{} has no `root`", settings.file.display()))
            .because("without the root's public half any repository would be believed")
            .hint("Copy the line `root = ...` from the backstay.toml that `backstay init` wrote.")
    })
}

/// The key material as this host has it; a host without any may still list and check.
pub async fn load_keys(context: &Context, source: Option<&KeySource>) -> Result<KeyFile, Diagnostic> {
    let Some(source) = source else { return Ok(KeyFile::default()) };
    let secret = context.cancel.or(source.load(context.env(), COMMAND_TIME)).await??;
    let unusable = |cause: String| {
        Diagnostic::new(Kind::Config, format!("the key from {source} cannot be used")).because(cause).hint(
            "Bring the key back from where its copy is kept; `backstay config show --origin` says where it is read.",
        )
    };
    let text = std::str::from_utf8(secret.expose()).map_err(|_| unusable("it is not text".to_owned()))?;
    KeyFile::parse(text).map_err(|error| unusable(error.to_string()))
}

/// A repository's place with everything that decides how it is reached.
#[derive(Clone, Copy)]
pub struct Reached<'a> {
    pub at: &'a RepositoryLocation,
    pub settings: &'a StoreSettings,
    pub limits: &'a Limits,
    /// The configuration to mend when something is missing.
    pub file: &'a Path,
}

impl<'a> Reached<'a> {
    pub fn of(settings: &'a Settings) -> Self {
        Self { at: &settings.repository, settings: &settings.store, limits: &settings.limits, file: &settings.file }
    }
}

/// The store with its decorators: metered, tried again, limited.
pub async fn store(context: &Context, reached: &Reached<'_>, mode: OpenMode) -> Result<Arc<dyn Store>, Diagnostic> {
    store_in(context, context.env(), reached, mode).await
}

/// The same with keys from other variables than those of this process.
pub async fn store_in(
    context: &Context,
    env: &Variables,
    reached: &Reached<'_>,
    mode: OpenMode,
) -> Result<Arc<dyn Store>, Diagnostic> {
    let limits = reached.limits;
    let (deadline, slow) = (limits.store_deadline, slowest_transfer(limits));
    // A connection that stalls must leave time for another attempt, and one that is held back on purpose does not stall.
    let patience = Patience { attempt: deadline / 2 + slow, deadline: deadline + 2 * slow, ..Patience::STANDARD };
    let (bare, distance, rates): (Arc<dyn Store>, _, _) = match reached.at {
        RepositoryLocation::Folder(folder) => (Arc::new(LocalStore::open(folder, mode)?), Distance::Here, limits.rates),
        RepositoryLocation::Bucket(place) => {
            let options = bucket((context, env), place, reached, patience.attempt).await?;
            // It keeps the pace within each object by itself.
            (Arc::new(CloudStore::open(options)?), Distance::Far, Rates::default())
        }
    };
    let metered = Arc::new(Meter::new(bare));
    context.meters.add(metered.clone(), distance);
    let patient: Arc<dyn Store> = Arc::new(Retry::new(metered, Arc::new(OsRandom), patience));
    let in_flight = limits.requests_in_flight.max(limits.upload_in_flight);
    let bounds = Bounds { in_flight, rates };
    Ok(Arc::new(Limit::new(patient, bounds)))
}

/// How long the bytes of one operation may take at the pace that is set, when everything that may be on its way is.
fn slowest_transfer(limits: &Limits) -> Duration {
    let of = |rate: Option<NonZeroU64>, at_once: NonZeroU32| {
        let bytes = PACK_MAX as u64 * u64::from(at_once.get());
        rate.map_or(Duration::ZERO, |rate| Duration::from_secs(bytes / rate).min(TRANSFER_MAX))
    };
    of(limits.rates.upload, limits.upload_in_flight).max(of(limits.rates.download, limits.requests_in_flight))
}

/// Longer than this nothing is waited for, whatever the pace.
const TRANSFER_MAX: Duration = Duration::from_secs(6 * 3600);

/// How a bucket is reached and signed for, found when it is needed and kept nowhere else.
async fn bucket(
    (context, env): (&Context, &Variables),
    place: &Place,
    reached: &Reached<'_>,
    request_time: Duration,
) -> Result<CloudOptions, Diagnostic> {
    let settings = reached.settings;
    let service = match place.provider() {
        Provider::S3 => {
            let finder = Finder { env: env.clone(), clock: context.clock.clone() };
            let access = context.cancel.or(aws::find(&finder, settings, reached.file)).await??;
            Service::S3(S3 {
                region: access.region,
                addressing: settings.addressing,
                server_side: settings.server_side.clone(),
                checksum: settings.checksum,
                credentials: access.credentials,
            })
        }
        Provider::Gcs => Service::Gcs(gcs::find(env, settings)?),
        Provider::Azure => Service::Azure(azure::find(env, settings)?),
    };
    Ok(CloudOptions {
        place: place.clone(),
        reach: Reach {
            endpoint: settings.endpoint.clone(),
            transport: settings.transport,
            ca_pem: settings.ca_file.as_deref().map(raw::read_file).transpose()?.map(String::into_bytes),
            request_time,
            rates: reached.limits.rates,
        },
        storage_class: settings.storage_class.clone(),
        service,
    })
}

/// Names in a repository's folder that are not the store's. A bucket is not looked through for them.
pub async fn foreign_names(settings: &Settings) -> Result<Vec<String>, Diagnostic> {
    match &settings.repository {
        RepositoryLocation::Folder(folder) => Ok(LocalStore::open(folder, OpenMode::Existing)?.foreign_names().await?),
        RepositoryLocation::Bucket(_) => Ok(Vec::new()),
    }
}

/// Whether there is anything to look into: a folder that is not there holds no repository, and is no failure of the
/// disk. Of a bucket only its server knows.
pub fn may_hold_one(at: &RepositoryLocation) -> bool {
    match at {
        RepositoryLocation::Folder(folder) => folder.exists(),
        RepositoryLocation::Bucket(_) => true,
    }
}

/// What operations are given: the machine's own time, chance and disk.
pub fn env(context: &Context, limits: &Limits) -> Env {
    match limits.threads {
        Threads::Just(threads) => Env { threads: threads.get() as usize, ..env_without_settings(context) },
        Threads::AllCores => env_without_settings(context),
    }
}

/// The same where there is no configuration, or it is not to be believed.
pub fn env_without_settings(context: &Context) -> Env {
    let random: Arc<dyn Random> = Arc::new(OsRandom);
    Env {
        clock: context.clock.clone(),
        random,
        disk: Arc::new(OsDisk),
        events: events(context),
        cancel: context.cancel.for_operations(),
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

/// Turns events into progress: one bar or series of lines per stretch of work.
fn events(context: &Context) -> Arc<dyn Fn(Event) + Send + Sync> {
    let shown: Mutex<Option<Progress>> = Mutex::new(None);
    let (printer, clock) = (context.printer.clone(), context.clock.clone());
    Arc::new(move |event| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Began { source, what, bytes } => {
                let progress = printer.progress(clock.clone(), &format!("{source}: {what}"));
                if let Some(bytes) = bytes {
                    progress.set_total(ByteLen::new(bytes));
                }
                *shown = Some(progress);
            }
            Event::Advanced { bytes } => {
                if let Some(progress) = shown.as_ref() {
                    progress.advance(ByteLen::new(bytes));
                }
            }
            Event::Ended => *shown = None,
        }
    })
}

/// The name this host signs under.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() { "host".to_owned() } else { name }
}

/// A span in whole milliseconds, for reports.
pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
