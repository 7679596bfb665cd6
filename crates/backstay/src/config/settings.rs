//! What the program may know: every value typed, every path absolute, every origin remembered.

use super::copies::{self, CopyName, CopySettings};
use super::error::ConfigError;
use super::groups::{self, Group};
use super::hooks::Hooks;
use super::origin::Origin;
use super::raw::{RawConfig, Written};
use super::retention::Retention;
use super::secret::KeySource;
use super::store::StoreSettings;
use super::value::Named;
use backstay_model::{ByteLen, SignerKey, SourceName};
use backstay_ops::follow::Mode;
use backstay_store::cloud::{BadPlace, Place};
use backstay_store::limit::Rates;
use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file they came from.
    pub file: PathBuf,
    pub repository: RepositoryLocation,
    /// How a bucket is reached; without meaning for a folder.
    pub store: StoreSettings,
    /// Absent until `init` has pinned it.
    pub root: Option<SignerKey>,
    /// Absent on a host that was given no key.
    pub key: Option<KeySource>,
    pub state_dir: PathBuf,
    pub limits: Limits,
    /// What a check looks at beside the newest snapshot.
    pub check_budget: ByteLen,
    /// Where following writes metrics.
    pub metrics: Option<PathBuf>,
    /// How many objects following may put in a day, for all sources together.
    pub puts_per_day: Option<NonZeroU32>,
    /// After how long sources that are written to steadily share objects, if they may.
    pub share: Option<Duration>,
    /// What holds for a source that says nothing else.
    pub general: Policy,
    pub sources: BTreeMap<SourceName, SourceSettings>,
    /// Tables that name many databases; those found are among the sources.
    pub groups: Vec<Group>,
    /// Files that fit a pattern and are no sources all the same, and why.
    pub passed_over: Vec<String>,
    /// The one that was asked for although its file is not there any more.
    gone: OnceLock<SourceSettings>,
    pub copies: BTreeMap<CopyName, CopySettings>,
    /// The copy that these settings show in the place of the repository.
    pub standing_in: Option<CopyName>,
    shown: Vec<Shown>,
}

/// One value as `config show` prints it.
#[derive(Debug, Clone)]
pub struct Shown {
    pub key: String,
    pub value: String,
    pub origin: Origin,
}

/// Where the backups are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepositoryLocation {
    Folder(PathBuf),
    Bucket(Place),
}

impl RepositoryLocation {
    /// Whether a file of this machine lies inside.
    pub fn holds(&self, path: &Path) -> bool {
        matches!(self, RepositoryLocation::Folder(folder) if path.starts_with(folder))
    }
}

impl std::fmt::Display for RepositoryLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RepositoryLocation::Folder(folder) => write!(f, "{}", folder.display()),
            RepositoryLocation::Bucket(place) => write!(f, "{place}"),
        }
    }
}

/// One database, with every policy that applies to it already resolved.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    pub name: SourceName,
    pub path: PathBuf,
    pub smoke: Vec<String>,
    pub policy: Policy,
    pub hooks: Hooks,
}

/// How a source is to be treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub proof: Proof,
    pub capture: Capture,
    pub follow: Follow,
    /// The age from which the newest proven backup is too old.
    pub max_age: Duration,
    pub retention: Retention,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub enabled: bool,
    pub integrity: Integrity,
    pub foreign_keys: ForeignKeys,
    /// Absent: the system's folder for temporary files.
    pub temp_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    Full,
    Quick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignKeys {
    Require,
    Report,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capture {
    pub busy_timeout: Duration,
    pub hold_max: Duration,
    pub log_growth_max: ByteLen,
}

/// How a source is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow {
    pub mode: Mode,
    pub interval: Duration,
    pub interval_steady: Duration,
    pub snapshot_interval: Duration,
    /// How much of the log goes into one snapshot that is made of it.
    pub point_interval: Duration,
    pub wal_limit: ByteLen,
    pub spool_limit: ByteLen,
    pub rest_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub threads: Threads,
    pub upload_in_flight: NonZeroU32,
    pub requests_in_flight: NonZeroU32,
    pub rates: Rates,
    pub store_deadline: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    AllCores,
    Just(NonZeroU32),
}

impl Settings {
    /// Every value in force, sorted by key; never key material.
    pub fn shown(&self) -> &[Shown] {
        &self.shown
    }

    pub fn source(&self, name: &SourceName) -> Result<&SourceSettings, ConfigError> {
        if let Some(source) = self.sources.get(name).or_else(|| self.gone.get().filter(|gone| gone.name == *name)) {
            return Ok(source);
        }
        let gone = self.groups.iter().find_map(|group| group.gone(name));
        if let Some(gone) = gone.filter(|_| self.gone.get().is_none()) {
            return Ok(self.gone.get_or_init(|| gone));
        }
        let have = self.sources.keys().cloned().collect();
        Err(ConfigError::NoSuchSource { path: self.file.clone(), name: name.clone(), have })
    }

    /// The sources named, of one pattern or by themselves, or all of them when none is.
    pub fn chosen(&self, names: &[SourceName]) -> Result<Vec<&SourceSettings>, ConfigError> {
        if names.is_empty() {
            return Ok(self.sources.values().collect());
        }
        let mut chosen = Vec::new();
        for name in names {
            match self.groups.iter().find(|group| group.name == *name) {
                Some(group) => chosen.extend(self.sources.values().filter(|source| group.has(source))),
                None => chosen.push(self.source(name)?),
            }
        }
        Ok(chosen)
    }

    /// The patterns among the names, or all of them when none is named.
    pub fn chosen_groups(&self, names: &[SourceName]) -> Vec<Group> {
        self.groups.iter().filter(|group| names.is_empty() || names.contains(&group.name)).cloned().collect()
    }
}

/// Believes the merged leaves or says what is wrong with the first that cannot be believed.
pub fn build(raw: &RawConfig, file: &Path, working_dir: &Path) -> Result<Settings, ConfigError> {
    let folder = file.parent().unwrap_or(working_dir).to_owned();
    let reader = Reader { raw, file, folder: &folder, working_dir };
    let (mut sources, mut groups) = (BTreeMap::new(), Vec::new());
    for (name, at) in &raw.sources {
        match raw.get(&format!("sources.{name}.glob")) {
            Some(_) => groups.push(reader.group(name, Origin::File(at.clone()))?),
            None => {
                let source = reader.source(name, Origin::File(at.clone()))?;
                sources.insert(source.name.clone(), source);
            }
        }
    }
    let own: BTreeSet<PathBuf> = sources.values().map(|source| source.path.clone()).collect();
    groups.iter_mut().for_each(|group| group.apart.clone_from(&own));
    let passed_over = groups.iter().flat_map(|group| group.add_to(&mut sources)).collect();
    let repository = reader.repository()?;
    Ok(Settings {
        file: file.to_owned(),
        store: StoreSettings::read(&reader, &repository)?,
        repository,
        root: reader.root()?,
        key: reader.key()?,
        state_dir: reader.path(reader.must("state_dir")?)?,
        limits: reader.limits()?,
        check_budget: reader.must("check.budget")?.size()?,
        metrics: reader.get("follow.metrics").map(|named| reader.path(named)).transpose()?,
        share: reader.share()?,
        puts_per_day: reader.get("follow.puts_per_day").map(puts_per_day).transpose()?,
        general: Below { reader: &reader, source: None }.policy()?,
        sources,
        groups,
        passed_over,
        gone: OnceLock::new(),
        copies: copies::read(raw, &reader)?,
        standing_in: None,
        shown: reader.shown(),
    })
}

pub(super) struct Reader<'a> {
    raw: &'a RawConfig,
    file: &'a Path,
    folder: &'a Path,
    working_dir: &'a Path,
}

impl<'a> Reader<'a> {
    pub(super) fn get(&self, key: &'a str) -> Option<Named<'a>> {
        self.raw.get(key).map(|leaf| Named { key, leaf })
    }

    fn must(&self, key: &'a str) -> Result<Named<'a>, ConfigError> {
        self.get(key).ok_or_else(|| ConfigError::Missing { path: self.file.to_owned(), key: key.to_owned() })
    }

    pub(super) fn retention(&self) -> Result<Retention, ConfigError> {
        Retention::read(&Below { reader: self, source: None })
    }

    /// The same folders over other leaves.
    pub(super) fn over<'b>(&self, raw: &'b RawConfig) -> Reader<'b>
    where
        'a: 'b,
    {
        Reader { raw, ..*self }
    }

    pub(super) fn repository(&self) -> Result<RepositoryLocation, ConfigError> {
        let named = self.must("repository")?;
        let wanted = "a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://ACCOUNT/CONTAINER/PREFIX";
        let text = named.text(wanted)?;
        if !text.contains("://") {
            return Ok(RepositoryLocation::Folder(self.path(named)?));
        }
        let bad = |why: BadPlace| named.bad(&format!("{wanted} ({why})"));
        text.parse().map(RepositoryLocation::Bucket).map_err(bad)
    }

    fn root(&self) -> Result<Option<SignerKey>, ConfigError> {
        let Some(named) = self.get("root") else { return Ok(None) };
        let wanted = "the 64 hexadecimal digits that `backstay init` wrote";
        named.text(wanted)?.parse().map(Some).map_err(|_| named.bad(wanted))
    }

    /// The strongest layer decides; two answers of one layer are a question back.
    fn key(&self) -> Result<Option<KeySource>, ConfigError> {
        const NAMES: [&str; 4] = ["key_file", "key_command", "key_fd", "key_env"];
        let given: Vec<Named<'a>> = NAMES.into_iter().filter_map(|name| self.get(name)).collect();
        let Some(strongest) = given.iter().map(|named| named.leaf.origin.rank()).max() else { return Ok(None) };
        let mut best = given.into_iter().filter(|named| named.leaf.origin.rank() == strongest);
        let (Some(first), second) = (best.next(), best.next()) else { return Ok(None) };
        if let Some(second) = second {
            let word = |named: Named<'_>| NAMES.into_iter().find(|name| *name == named.key).unwrap_or("another place");
            return Err(ConfigError::TwoKeySources {
                origin: second.leaf.origin.clone(),
                first: word(first),
                second: word(second),
            });
        }
        self.key_source(first).map(Some)
    }

    fn key_source(&self, named: Named<'a>) -> Result<KeySource, ConfigError> {
        let command = "a list of words such as [\"pass\", \"show\", \"backstay\"]";
        Ok(match named.key {
            "key_file" => KeySource::File(self.path(named)?),
            "key_fd" => KeySource::Descriptor(named.number(0, 1023)?),
            "key_env" => KeySource::Env(super::keys::KEY_VARIABLE.to_owned()),
            _ => match named.list(command)?.split_first() {
                Some((program, arguments)) if !program.is_empty() => {
                    KeySource::Command { program: program.clone(), arguments: arguments.to_vec() }
                }
                _ => return Err(named.bad(command)),
            },
        })
    }

    fn share(&self) -> Result<Option<Duration>, ConfigError> {
        let named = self.must("follow.share_after")?;
        let after = named.duration()?;
        if !SHARE_AFTER.contains(&after) {
            return Err(named.bad("a span from \"1s\" to \"1h\""));
        }
        Ok(self.must("follow.share")?.flag()?.then_some(after))
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let at_least_one = |key: &'a str, most| {
            let named = self.must(key)?;
            NonZeroU32::new(named.number(1, most)?).ok_or_else(|| named.bad("at least 1"))
        };
        let rate = |key: &'a str| {
            let Some(named) = self.get(key) else { return Ok(None) };
            let some = NonZeroU64::new(named.size()?.get());
            some.map(Some).ok_or_else(|| named.bad("at least one byte per second, or left out"))
        };
        Ok(Limits {
            threads: NonZeroU32::new(self.must("limits.threads")?.number(0, 1024)?)
                .map_or(Threads::AllCores, Threads::Just),
            upload_in_flight: at_least_one("limits.upload_in_flight", 64)?,
            requests_in_flight: at_least_one("limits.requests_in_flight", 256)?,
            rates: Rates { upload: rate("limits.upload")?, download: rate("limits.download")? },
            store_deadline: self.must("limits.store_deadline")?.duration()?,
        })
    }

    fn name(name: &str, opened: &Origin) -> Result<SourceName, ConfigError> {
        name.parse().map_err(|_| ConfigError::BadValue {
            origin: opened.clone(),
            key: "sources".to_owned(),
            wanted: format!("followed by a name of a-z, 0-9, - and _ such as `sources.{}`", SourceName::suggest(name)),
            found: format!("{name:?}"),
        })
    }

    fn source(&self, name: &str, opened: Origin) -> Result<SourceSettings, ConfigError> {
        let name = Self::name(name, &opened)?;
        let below = Below { reader: self, source: Some(&name) };
        let missing = |key| ConfigError::Missing { path: self.file.to_owned(), key };
        let path_key = below.key("path");
        let path = self.raw.get(&path_key).ok_or_else(|| missing(path_key.clone()))?;
        Ok(SourceSettings {
            path: self.path(Named { key: &path_key, leaf: path })?,
            smoke: below.smoke()?,
            policy: below.policy()?,
            hooks: Hooks::read(&below)?,
            name,
        })
    }

    /// A table with a pattern in the place of a path.
    fn group(&self, name: &str, opened: Origin) -> Result<Group, ConfigError> {
        let name = Self::name(name, &opened)?;
        let below = Below { reader: self, source: Some(&name) };
        let (key, path_key) = (below.key("glob"), below.key("path"));
        if let Some(leaf) = self.raw.get(&path_key) {
            return Err(Named { key: &path_key, leaf }.bad("left out where there is a `glob`"));
        }
        let missing = || ConfigError::Missing { path: self.file.to_owned(), key: key.clone() };
        let named = Named { key: &key, leaf: self.raw.get(&key).ok_or_else(missing)? };
        let pattern = groups::split(named, &self.path(named)?)?;
        let (smoke, policy, hooks) = (below.smoke()?, below.policy()?, Hooks::read(&below)?);
        Ok(Group::new(name, pattern, (smoke, policy, hooks)))
    }

    /// Paths of the file start at its folder; paths a person typed start where the person stands.
    pub(super) fn path(&self, named: Named<'_>) -> Result<PathBuf, ConfigError> {
        let text = named.text("a path")?;
        if text.contains('\0') {
            return Err(named.bad("a path"));
        }
        let start = match named.leaf.origin {
            Origin::Default | Origin::File(_) => self.folder,
            Origin::Env(_) | Origin::Flag(_) => self.working_dir,
        };
        Ok(start.join(text.strip_prefix("./").unwrap_or(text)))
    }

    fn shown(&self) -> Vec<Shown> {
        let show = |(key, leaf): (&str, &super::raw::Leaf)| {
            let (key, value) = match (key, &leaf.written) {
                ("key_env", _) => ("key".to_owned(), "(secret)".to_owned()),
                (_, Written::Text(text)) => (key.to_owned(), text.clone()),
                (_, written) => (key.to_owned(), written.to_string()),
            };
            Shown { key, value, origin: leaf.origin.clone() }
        };
        self.raw.iter().map(show).collect()
    }
}

/// Who comes and goes at once makes more objects than it saves; after hours nobody knows any more what it was for.
const SHARE_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Fewer than a hundred a day would keep each commit waiting for a quarter of an hour.
fn puts_per_day(named: Named<'_>) -> Result<NonZeroU32, ConfigError> {
    let puts = named.number(100, u32::MAX)?;
    Ok(NonZeroU32::new(puts).unwrap_or(NonZeroU32::MIN))
}

/// The settings of one source: its own where it has them, the general ones elsewhere. Without a source, the general
/// ones alone.
pub(super) struct Below<'a, 'n> {
    reader: &'n Reader<'a>,
    source: Option<&'n SourceName>,
}

impl Below<'_, '_> {
    fn key(&self, key: &str) -> String {
        self.source.map_or_else(|| key.to_owned(), |name| format!("sources.{name}.{key}"))
    }

    /// A flag or a variable outranks the file even where the file is more specific.
    pub(super) fn with<T>(
        &self,
        key: &str,
        read: impl Fn(Named<'_>) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        self.maybe(key, read)?
            .ok_or_else(|| ConfigError::Missing { path: self.reader.file.to_owned(), key: key.to_owned() })
    }

    pub(super) fn maybe<T>(
        &self,
        key: &str,
        read: impl Fn(Named<'_>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        let own_key = self.key(key);
        let (own, general) = (self.reader.raw.get(&own_key), self.reader.raw.get(key));
        let named = match (own, general) {
            (Some(own), Some(general)) if general.origin.rank() > own.origin.rank() => {
                Some(Named { key, leaf: general })
            }
            (Some(own), _) => Some(Named { key: &own_key, leaf: own }),
            (None, Some(general)) => Some(Named { key, leaf: general }),
            (None, None) => None,
        };
        named.map(read).transpose()
    }

    fn smoke(&self) -> Result<Vec<String>, ConfigError> {
        let key = self.key("smoke");
        let leaf = self.reader.raw.get(&key);
        leaf.map_or_else(|| Ok(Vec::new()), |leaf| Named { key: &key, leaf }.list("a list of SQL questions"))
    }

    fn policy(&self) -> Result<Policy, ConfigError> {
        let max_age = self.with("status.max_age", |named| named.duration())?;
        let (proof, capture, follow) = (self.proof()?, self.capture()?, self.follow()?);
        Ok(Policy { proof, capture, follow, max_age, retention: Retention::read(self)? })
    }

    fn follow(&self) -> Result<Follow, ConfigError> {
        let modes = [("yield", Mode::Yield), ("hold", Mode::Hold), ("watch", Mode::Watch)];
        Ok(Follow {
            mode: self.with("follow.mode", |named| named.choice(&modes))?,
            interval: self.with("follow.interval", |named| named.duration())?,
            interval_steady: self.with("follow.interval_steady", |named| named.duration())?,
            snapshot_interval: self.with("follow.snapshot_interval", |named| named.duration())?,
            point_interval: self.with("follow.point_interval", |named| named.duration())?,
            wal_limit: self.with("follow.wal_limit", |named| named.size())?,
            spool_limit: self.with("follow.spool_limit", |named| named.size())?,
            rest_after: self.maybe("follow.rest_after", |named| named.duration())?,
        })
    }

    fn proof(&self) -> Result<Proof, ConfigError> {
        let integrity = [("full", Integrity::Full), ("quick", Integrity::Quick)];
        let foreign_keys =
            [("require", ForeignKeys::Require), ("report", ForeignKeys::Report), ("off", ForeignKeys::Off)];
        Ok(Proof {
            enabled: self.with("proof.enabled", |named| named.flag())?,
            integrity: self.with("proof.integrity", |named| named.choice(&integrity))?,
            foreign_keys: self.with("proof.foreign_keys", |named| named.choice(&foreign_keys))?,
            temp_dir: self.maybe("proof.temp_dir", |named| self.reader.path(named))?,
        })
    }

    fn capture(&self) -> Result<Capture, ConfigError> {
        Ok(Capture {
            busy_timeout: self.with("capture.busy_timeout", |named| named.duration())?,
            hold_max: self.with("capture.hold_max", |named| named.duration())?,
            log_growth_max: self.with("capture.log_growth_max", |named| named.size())?,
        })
    }
}
