//! Errors of repositories, stores, seals and key files, with their remedies.

#[cfg(test)]
mod tests;

use super::Diagnostic;
use backstay_store::StoreError;
use backstay_store::keyfile::KeyFileError;
use backstay_store::repo::RepoError;
use backstay_store::seal::SealError;

impl From<RepoError> for Diagnostic {
    fn from(error: RepoError) -> Self {
        hinted(Diagnostic::of(&error), &error)
    }
}

impl From<StoreError> for Diagnostic {
    fn from(error: StoreError) -> Self {
        of_store(Diagnostic::of(&error), &error)
    }
}

impl From<SealError> for Diagnostic {
    fn from(error: SealError) -> Self {
        of_seal(Diagnostic::of(&error), &error)
    }
}

impl From<KeyFileError> for Diagnostic {
    fn from(error: KeyFileError) -> Self {
        of_key_file(Diagnostic::of(&error), &error)
    }
}

pub(super) fn hinted(plain: Diagnostic, error: &RepoError) -> Diagnostic {
    match error {
        RepoError::NotARepository { .. } => plain
            .hint("Correct `repository`; `backstay config show --origin` says where it is set.")
            .hint("Run `backstay init` in a new folder to make a repository."),
        RepoError::AlreadyThere { .. } => plain.hint("Nothing was changed; name another folder with `--repo`."),
        RepoError::OtherRoot { .. } => plain
            .hint("Look whether `repository` and `root` belong together with `backstay config show --origin`.")
            .hint("If they do, somebody exchanged the repository: do not write to it, look at the copy of your backups."),
        RepoError::BadSignature { .. } | RepoError::Stranger { .. } | RepoError::Foreign { .. } => {
            plain.hint("Run `backstay check` to see what is affected; somebody else wrote into the repository.")
        }
        RepoError::RolledBack { what: "configuration", .. } => plain
            .hint("If the store has lost the newest configuration, run `backstay repo mend`: this host has kept it.")
            .hint("Look whether the repository was restored from an old copy, or exchanged, before writing to it."),
        RepoError::RolledBack { .. } => plain
            .hint("Look whether the repository was restored from an old copy, or exchanged, before writing to it.")
            .hint("If the older state is meant, remove this host's memory, the folder `backstay config show` calls `state_dir`."),
        RepoError::BrokenChain { .. } | RepoError::Misplaced { .. } => {
            plain.hint("Run `backstay check` to see which snapshots are affected.")
        }
        RepoError::LostRace { .. } => plain.hint("Run the same command again; let one host alone back a source up."),
        RepoError::Damaged { .. }
        | RepoError::WrongLength { .. }
        | RepoError::Missing { .. }
        | RepoError::WrongDigest { .. }
        | RepoError::Unlisted { .. }
        | RepoError::BadMap { .. } => pruned(plain, error)
            .hint("Run `backstay check` to see which snapshots are affected.")
            .hint("Run `backstay scrub`: it goes on where one was stopped, and `--heal-from COPY` brings back what a copy has.")
            .hint("Run `backstay backup`: it stores again what a check found damaged."),
        RepoError::Sealed { source, .. } => of_seal(plain, source),
        RepoError::NewerWriters { .. } => plain
            .hint("Install the version of Backstay that the other hosts run; `backstay restore` and `check` work with this one."),
        RepoError::NoWrap { .. } => plain
            .hint("Use the key file that holds the master identity itself; BACKSTAY_KEY_FILE names another file.")
            .hint("With that, run `backstay repo key rotate`: it makes every wrap anew."),
        RepoError::NoIdentity => {
            plain
                .hint("Use a host or key file that can read; BACKSTAY_KEY_FILE names another file.")
                .hint("To let this host read, run `backstay repo key add` where the root key is, with an age identity made here.")
        }
        RepoError::KeyFile(error) => of_key_file(plain, error),
        RepoError::Store(error) => of_store(plain, error),
    }
}

/// What is missing may have been deleted on purpose while somebody was reading it.
fn pruned(plain: Diagnostic, error: &RepoError) -> Diagnostic {
    match error {
        RepoError::Missing { .. } => plain.hint(
            "If `backstay retention apply --grace` ran meanwhile, choose another snapshot: `backstay list` shows those that stay.",
        ),
        _ => plain,
    }
}

fn of_seal(plain: Diagnostic, error: &SealError) -> Diagnostic {
    match error {
        SealError::WrongKey => plain.hint(
            "Use a key file that opens this repository, as `backstay repo key list` names them; BACKSTAY_KEY_FILE names another file.",
        ),
        SealError::BadIdentity { .. } | SealError::BadRecipient { .. } => {
            plain.hint("Bring the key back from where its copy is kept; `backstay doctor` looks at it.")
        }
        SealError::Commitment
        | SealError::Tag { .. }
        | SealError::Compression { .. }
        | SealError::Wrap { .. }
        | SealError::Corrupt(_) => plain
            .hint("Run `backstay check` to see which snapshots are affected.")
            .hint("Run `backstay backup`: it stores again what a check found damaged."),
    }
}

fn of_key_file(plain: Diagnostic, error: &KeyFileError) -> Diagnostic {
    match error {
        KeyFileError::BadSeed { .. }
        | KeyFileError::UnknownLine { .. }
        | KeyFileError::Twice { .. }
        | KeyFileError::TooLong { .. }
        | KeyFileError::Empty
        | KeyFileError::Identity(_) => plain
            .hint("Bring the key back from where its copy is kept, or name the copy with BACKSTAY_KEY_FILE.")
            .hint("Run `backstay config show --origin` to see where the key is read from."),
    }
}

fn of_store(plain: Diagnostic, error: &StoreError) -> Diagnostic {
    match error {
        StoreError::NotFound { .. } | StoreError::Short { .. } => plain
            .hint("Run `backstay check` to see which snapshots are affected.")
            .hint("Run `backstay scrub`: it goes on where one was stopped, and `--heal-from COPY` brings back what a copy has."),
        StoreError::TooLarge { .. } | StoreError::BadName { .. } => plain
            .hint("Look at what else writes into the repository; `backstay check` says whether backups are affected."),
        StoreError::Expired { .. } => plain
            .hint("Get new access keys the way you got these, then run the same command again.")
            .hint("For runs longer than the keys last, name a `store.profile` with a `credential_process`."),
        StoreError::Skewed { .. } => plain
            .hint("Set the clock of this machine, for instance with `timedatectl set-ntp true`.")
            .hint("Run `date -u` to see what it says now, then run the same command again."),
        StoreError::Locked { .. } => plain
            .hint("Wait until its time is over; nobody can delete it before.")
            .hint("Say in `store.object_lock` how long the bucket locks what is put into it."),
        StoreError::Denied { .. } => {
            plain.hint("Run `backstay doctor`, and correct the permissions of the repository.")
        }
        StoreError::Refused { .. } => {
            plain.hint("Look at `repository` and the table `[store]` with `backstay config show --origin`.")
        }
        StoreError::Full { .. } => {
            plain.hint("Free some space where the repository lies; `backstay doctor` measures it.")
        }
        StoreError::Unknown { .. } | StoreError::Deadline { .. } => {
            plain.hint("Run the same command again when the repository can be reached; `backstay doctor` tries it.")
        }
        StoreError::Open { path, .. } => plain
            .hint(format!("Look whether {path} is there and mounted."))
            .hint("Correct `repository`; `backstay config show --origin` says where it is set."),
    }
}
