//! `backstay init`: the key file, then the repository, then backstay.toml, and the first backup with its proof.
//!
//! Nothing that exists is overwritten. The order is what makes a crash harmless: a key without a repository, or a
//! repository of that very key without a configuration, was left by a run that died and is taken up by the next.

mod decide;
mod sources;
mod view;

pub use sources::Protect;

use crate::args;
use crate::commands::backup::{self, BackupView, Wish};
use crate::config::Settings;
use crate::config::settings::RepositoryLocation;
use crate::config::write::{FreshConfig, NewSource};
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::vault;
use backstay_model::{Kind, Kinded, SignerKey, Verdict};
use backstay_ops::Env;
use backstay_ops::init::{self, NewVault, Sealing};
use backstay_store::Store;
use backstay_store::local::OpenMode;
use backstay_store::repo::{RepoError, Repository};
use decide::{KeyFound, RepositoryFound, Situation, Step};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use view::InitView;

pub async fn run(context: &Context, args: &args::Init) -> Outcome {
    let places = Places::of(context, args)?;
    let defaults = defaults(context, &places)?;
    let reached = vault::Reached { at: &places.repository, ..vault::Reached::of(&defaults) };
    let situation = look(context, &places, &reached).await?;
    let steps = decide::decide(&situation)?;
    let protect = sources::chosen(context, args, &places, &defaults)?;
    let env = vault::env(context, &defaults.limits);
    let store = vault::store(context, &reached, OpenMode::Create).await?;
    let made = perform(&env, store, &places, args, &steps).await?;
    places.write_config(made.root, &protect, said_of_the_store(&defaults))?;
    let settings = context.settings()?;
    let mut view = InitView::of(&places, &made, &steps, &protect);
    if args.no_backup || protect.is_empty() {
        context.printer.show(&view)?;
        return Ok(Done::With(Verdict::Pass));
    }
    let backed_up = first_backup(context, &settings, made.keys).await;
    let failed = match backed_up {
        Ok(backup) => {
            view.verdict = backup.verdict;
            view.backup = Some(backup);
            None
        }
        Err(diagnostic) => Some(diagnostic),
    };
    match failed {
        None => {
            context.printer.show(&view)?;
            Ok(Done::With(view.verdict))
        }
        // Everything was made, and nothing is protected yet: the failure is the news.
        Some(diagnostic) => {
            Err(diagnostic.hint("Everything else was made; run `backstay backup` when this is mended."))
        }
    }
}

async fn first_backup(
    context: &Context,
    settings: &Settings,
    keys: backstay_store::keyfile::KeyFile,
) -> Result<BackupView, Diagnostic> {
    let store = vault::store(context, &vault::Reached::of(settings), OpenMode::Existing).await?;
    let vault = vault::open_with(context, settings, store, keys).await?;
    let sources: Vec<_> = settings.sources.values().collect();
    backup::back_up(context, settings, &vault, &sources, &Wish::PLAIN).await
}

/// Where everything goes, absolute, and as it is written into the configuration.
pub struct Places {
    pub config: PathBuf,
    pub key_file: PathBuf,
    pub repository: RepositoryLocation,
    working_dir: PathBuf,
    written_key_file: PathBuf,
    written_repository: String,
}

impl Places {
    fn of(context: &Context, args: &args::Init) -> Result<Self, Diagnostic> {
        let working_dir = context.layers.working_dir.clone();
        let config = context.layers.path();
        let mut places = Self {
            key_file: working_dir.join(plain(&args.key_file)),
            repository: location(&working_dir, &args.repo)?,
            written_key_file: PathBuf::new(),
            written_repository: String::new(),
            working_dir,
            config,
        };
        places.written_key_file = places.written(&args.key_file)?;
        places.written_repository = match &places.repository {
            RepositoryLocation::Folder(_) => places.written(&args.repo)?.display().to_string(),
            RepositoryLocation::Bucket(place) => place.to_string(),
        };
        Ok(places)
    }

    /// A path as the configuration should have it: as it was typed where that means the same, else absolute.
    fn written(&self, typed: &Path) -> Result<PathBuf, Diagnostic> {
        let beside = self.config.parent() == Some(self.working_dir.as_path());
        let path = if beside { typed.to_owned() } else { self.working_dir.join(typed) };
        match path.to_str() {
            Some(_) => Ok(path),
            None => Err(Diagnostic::new(Kind::Usage, format!("the path {} is not text", path.display()))
                .hint("Move it to a path of plain characters, which a configuration file can hold.")),
        }
    }

    fn write_config(
        &self,
        root: SignerKey,
        protect: &[Protect],
        store: Vec<(String, String)>,
    ) -> Result<(), Diagnostic> {
        let mut sources = Vec::new();
        for source in protect {
            sources.push(NewSource { name: source.name.clone(), path: self.written(&source.path)? });
        }
        let fresh = FreshConfig {
            repository: self.written_repository.clone(),
            store,
            root,
            key_file: Some(self.written_key_file.clone()),
            sources,
        };
        Ok(fresh.create(&self.config)?)
    }
}

/// What `--repo` names: a folder, or a bucket.
fn location(working_dir: &Path, typed: &Path) -> Result<RepositoryLocation, Diagnostic> {
    let Some(text) = typed.to_str().filter(|text| text.contains("://")) else {
        return Ok(RepositoryLocation::Folder(working_dir.join(plain(typed))));
    };
    text.parse().map(RepositoryLocation::Bucket).map_err(|why: backstay_store::cloud::BadPlace| {
        Diagnostic::new(Kind::Usage, "`--repo` must be a folder or a bucket").because(why.to_string()).hint(
            "Run it again with a folder, such as `--repo ./vault`, or a bucket, such as `--repo s3://vaults/shop`.",
        )
    })
}

/// The settings of the store that variables gave, so that the next command finds the bucket without them.
pub fn said_of_the_store(settings: &Settings) -> Vec<(String, String)> {
    let said = settings.shown().iter().filter_map(|shown| {
        let name = shown.key.strip_prefix("store.")?;
        // A path of a variable starts where the person stands, one of the file where the file is.
        let absolute = settings.store.ca_file.as_ref().filter(|_| name == "ca_file");
        Some((name.to_owned(), absolute.map_or_else(|| shown.value.clone(), |path| path.display().to_string())))
    });
    said.collect()
}

/// A path without a leading `./`, which says nothing in front of a folder.
fn plain(path: &Path) -> &Path {
    path.strip_prefix(".").unwrap_or(path)
}

/// The settings in force before there is a configuration: the defaults, with variables over them.
fn defaults(context: &Context, places: &Places) -> Result<Settings, Diagnostic> {
    let location = match &places.repository {
        RepositoryLocation::Folder(_) => "./vault".to_owned(),
        RepositoryLocation::Bucket(place) => place.to_string(),
    };
    Ok(context.layers.load_text(&places.config, &format!("repository = \"{location}\"\n"))?)
}

async fn look(context: &Context, places: &Places, reached: &vault::Reached<'_>) -> Result<Situation, Diagnostic> {
    let key = match init::read_keys(&places.key_file) {
        Ok(None) => KeyFound::None,
        Ok(Some(keys)) => match (&keys.root, &keys.signer, &keys.identity) {
            (Some(root), Some(_), Some(_)) => KeyFound::Whole(root.public()),
            _ => KeyFound::Unusable,
        },
        Err(error) if error.kind() == Kind::Config => KeyFound::Unusable,
        Err(error) => return Err(error.into()),
    };
    let repository = if vault::may_hold_one(reached.at) {
        repository_found(vault::store(context, reached, OpenMode::Existing).await?, key).await?
    } else {
        RepositoryFound::None
    };
    Ok(Situation {
        config: places.config.symlink_metadata().is_ok().then(|| places.config.clone()),
        key_path: places.key_file.clone(),
        key,
        repository_path: places.repository.to_string(),
        repository,
    })
}

async fn repository_found(store: Arc<dyn Store>, key: KeyFound) -> Result<RepositoryFound, Diagnostic> {
    // Without a key any root will do to find out that one is there.
    let root = match key {
        KeyFound::Whole(root) => root,
        _ => SignerKey::ZERO,
    };
    match Repository::open(store, root, None).await {
        Ok(_) => Ok(RepositoryFound::OfThisKey),
        Err(RepoError::NotARepository { .. }) => Ok(RepositoryFound::None),
        Err(RepoError::Store(error)) => Err(error.into()),
        Err(_) => Ok(RepositoryFound::OfAnotherKey),
    }
}

/// What `perform` leaves for the rest.
pub struct Made {
    pub id: backstay_model::RepoId,
    pub root: SignerKey,
    pub conditional_put: bool,
    pub unsealed: bool,
    pub keys: backstay_store::keyfile::KeyFile,
}

async fn perform(
    env: &Env,
    store: Arc<dyn Store>,
    places: &Places,
    args: &args::Init,
    steps: &[Step],
) -> Result<Made, Diagnostic> {
    if steps.contains(&Step::MakeRepository) {
        let sealing = if args.unsealed { Sealing::Unsealed } else { Sealing::Sealed };
        let new = NewVault { store, key_file: &places.key_file, sealing, host: vault::host_name() };
        let made = init::create(env, new).await?;
        let root = made.repo.root();
        let (id, unsealed) = (made.repo.id(), made.repo.is_unsealed());
        return Ok(Made { id, root, conditional_put: made.conditional_put, unsealed, keys: made.keys });
    }
    let vanished = || Diagnostic::new(Kind::Conflict, format!("{} vanished meanwhile", places.key_file.display()));
    let keys = init::read_keys(&places.key_file)?.ok_or_else(|| vanished().hint("Run `backstay init` again."))?;
    let root = keys.root.as_ref().map(backstay_store::signing::SigningKey::public);
    let root = root.ok_or_else(|| vanished().hint("Run `backstay init` again."))?;
    let repo = Repository::open(store, root, None).await?;
    let conditional_put = repo.conf().store.conditional_put;
    Ok(Made { id: repo.id(), root, conditional_put, unsealed: repo.is_unsealed(), keys })
}
