//! Errors of operations, with their remedies.

#[cfg(test)]
mod tests;

use super::{Diagnostic, repo, sqlite};
use backstay_model::catalog::NoPoint;
use backstay_model::litestream::{NoChain, txid};
use backstay_ops::OpsError;
use backstay_ops::trust::TrustError;

impl From<OpsError> for Diagnostic {
    fn from(error: OpsError) -> Self {
        let plain = Diagnostic::of(&error);
        match &error {
            OpsError::Repo(error) => repo::hinted(plain, error),
            OpsError::Shared(error) => repo::hinted(plain, error),
            OpsError::Sqlite(error) => sqlite::hinted(plain, error),
            OpsError::NoPoint(error) => of_point(plain, error),
            OpsError::Path(error) => plain.hint(format!("Look at it with `ls -ld {}`.", error.path.display())),
            OpsError::Format(_) => plain.hint("Run `backstay check` to see which snapshots are affected."),
            OpsError::Exhausted(_) => plain.hint("Add the database under a new name to backstay.toml."),
            OpsError::RootMismatch { .. } => plain
                .hint("Run `backstay check --deep`, and restore another point that `backstay list` shows as proven."),
            OpsError::BaseVanished { .. } => plain.hint("Run `backstay backup` again: it builds on what is there now."),
            OpsError::Busy { .. } => plain.hint("Wait for it to end, then run `backstay status`."),
            OpsError::Rival { source_name, .. } => plain
                .hint(format!("Run `backstay list {source_name}`, and let one host alone back this source up.")),
            OpsError::NotEnrolled { .. } => plain
                .hint("Run `backstay repo signer list` to see who is enrolled as what.")
                .hint("To enrol this host, run `backstay repo enroll --request --role ROLE` here and accept it where the root key is."),
            OpsError::TargetExists { path } => {
                plain.hint(format!("Name another file with `--to`, or move {} away.", path.display()))
            }
            OpsError::Unsettled { kept, .. } => plain
                .hint("Look at the database with your application. Running the same command again settles it.")
                .hint(format!("{} is a database by itself, and stays until you remove it.", kept.display())),
            OpsError::RowsUnsettled { undo, .. } => plain
                .hint("Look at the database with your application. Running the same command again settles it.")
                .hint(format!("{} undoes what was brought, and nothing if nothing was.", undo.display())),
            OpsError::NoFolder { path } => {
                plain.hint(format!("Make it with `mkdir -p {}`, or name another place with `--to`.", path.display()))
            }
            OpsError::InUse { .. } => {
                plain.hint("Stop the programs that use it, then run the same command again, or restore beside it with `--to FILE`.")
            }
            OpsError::NoRoom { .. } => plain.hint("Free some space, or name a file on another disk with `--to`."),
            OpsError::Smoke { .. } => {
                plain.hint("Restore another point, or correct `smoke` in backstay.toml; `backstay list` shows the points.")
            }
            OpsError::Unsound { .. } => plain.hint("Name a new file with `--to`; `backstay list` shows the other points."),
            OpsError::SameKeyFile { .. } => {
                plain.hint("Name the copy that is kept elsewhere: `backstay repo key confirm --key-file COPY`.")
            }
            OpsError::OtherKey { .. } | OpsError::KeyLacks { .. } => {
                plain.hint("Look for the key file that `backstay init` wrote for this repository; `backstay repo show` names it.")
            }
            OpsError::OutgrownKey { .. } => {
                plain.hint("Make a new copy of the key file in use, and confirm that one.")
            }
            OpsError::KeysChanged => plain.hint("Run `backstay backup` again: it seals to the new key."),
            OpsError::Trust(error) => of_trust(plain, error),
            OpsError::Unfinished { path } => plain.hint(format!(
                "Open a copy of it once with `sqlite3`, which rolls the change back, and import that: {}.",
                path.display()
            )),
            OpsError::TooLong { .. } => plain.hint("Say how long it may be with `--size-max`, such as `--size-max 50GiB`."),
            OpsError::Unpack { path, .. } => {
                plain.hint(format!("Try it with `gzip -t {}`; without the program, `apt-get install gzip`.", path.display()))
            }
            OpsError::NotACopy { .. } => plain
                .hint("Nothing was written there; correct `repository` of the copy, or name an empty place.")
                .hint("Run `backstay config show --origin` to see where it is set."),
            OpsError::CopyRivals { .. } => plain
                .hint("Nothing was written there; somebody backed up into the copy, or the original was put back to an older state.")
                .hint("Run `backstay list` on both, and copy to an empty place if both histories matter."),
            OpsError::Condemned { .. } => plain.hint("Run `backstay list` to see which points stay."),
            OpsError::TooSlow { .. } => plain
                .hint("Run `backstay backup` again: what it stored is not lost time, and is deleted later.")
                .hint("Look at what slows it down; `limits.threads` and `limits.upload_in_flight` say how much it may use."),
            OpsError::LeaseHeld { .. } => plain.hint("Wait for it to end, then run `backstay retention apply` again."),
            OpsError::LeaseOver => plain.hint("Run `backstay retention apply` again: it goes on."),
            OpsError::Protected { .. } => plain
                .hint("Take a new backup first, or take the hold back with `backstay retention release`; `backstay retention plan` shows why."),
            OpsError::NothingToDrop { source_name, .. } => {
                plain.hint(format!("Run `backstay list {source_name} --all` to see which there are."))
            }
            OpsError::NotHeld { .. } => plain.hint("Run `backstay list` to see which are."),
            OpsError::RecordFull => plain.hint("Split the sources over two repositories, and tell us: this should not happen."),
            OpsError::LogHole { .. } => plain
                .hint("Run the same command again; if it stays, name an earlier time with `--at`, or `--tx`."),
            OpsError::Mask(_) | OpsError::MaskBreaks { .. } => of_mask(plain, &error),
            OpsError::NotAReplica { .. } | OpsError::NoChain(_) | OpsError::Ltx { .. } => of_replica(plain, &error),
            OpsError::NoStandby { path, .. } => plain
                .hint("Name a copy that `backstay restore SOURCE --to FILE --follow` made.")
                .hint(format!("To begin anew, move {} and what is called like it away.", path.display())),
            OpsError::Cancelled => Diagnostic::cancelled(),
        }
    }
}

fn of_mask(plain: Diagnostic, error: &OpsError) -> Diagnostic {
    match error {
        OpsError::MaskBreaks { .. } => plain
            .hint("Columns that refer without a foreign key of their own need the rule of what they refer to.")
            .hint("Nothing was written under the name that was asked for."),
        _ => plain
            .hint("Mend the profile; `backstay restore SOURCE --mask-draft` lists every column there is.")
            .hint("Nothing was written."),
    }
}

fn of_replica(plain: Diagnostic, error: &OpsError) -> Diagnostic {
    match error {
        OpsError::NotAReplica { is_old: true, .. } => plain
            .hint("Restore it with the release of Litestream that wrote it, and run `backstay import SOURCE FILE`."),
        OpsError::NotAReplica { .. } => plain
            .hint("Name the folder that has the folder `ltx`, or the address of a replica in a bucket, such as s3://BUCKET/PATH."),
        OpsError::NoChain(NoChain::Inside { before, .. }) => plain
            .hint(format!("Ask for `--txid {}`.", txid(*before))),
        OpsError::NoChain(NoChain::BeforeFirst { oldest, .. }) => {
            plain.hint(format!("Ask for a later time, such as `--at {oldest}`."))
        }
        OpsError::NoChain(NoChain::Gap { first, .. }) => plain
            .hint(format!("Ask for the last state before the hole: `--txid {}`.", txid(first - 1)))
            .hint("Bring the whole replica here, if a part of it was left behind."),
        OpsError::NoChain(_) => plain.hint("Bring the whole replica here, with its folders 0 to 9."),
        _ => plain
            .hint("Bring that file here once more; if it stays, name an earlier state with `--txid`.")
            .hint("`litestream restore` may read what this Backstay does not; import its result."),
    }
}

fn of_trust(plain: Diagnostic, error: &TrustError) -> Diagnostic {
    match error {
        TrustError::NoRoot => plain
            .because("who is trusted, and to whom data is sealed, is signed by the root key alone")
            .hint("Run it where the root key is: BACKSTAY_KEY_FILE names the key file that `backstay init` wrote."),
        TrustError::BadRequest => plain
            .hint("Make the request again on that host with `backstay repo enroll --request`, and carry it unchanged."),
        TrustError::BadName { .. } => plain.hint("Choose another name, such as `--name db-host-2`."),
        TrustError::NameTaken { what: "signer", .. } => plain.hint(
            "Make the request again with another `--name`, or remove the old one with `backstay repo signer remove`.",
        ),
        TrustError::NameTaken { .. } => {
            plain.hint("Choose another `--name`; `backstay repo key list` shows those that are taken.")
        }
        TrustError::WasRemoved { .. } => {
            plain.hint("Make a new key on that host with `backstay repo enroll --request --key-file FILE`.")
        }
        TrustError::IsEnrolled { .. } => {
            plain.hint("Run `backstay repo signer list` to see its roles; nothing was changed.")
        }
        TrustError::Unknown { what: "signer", .. } => plain.hint("Run `backstay repo signer list`."),
        TrustError::Unknown { .. } => plain.hint("Run `backstay repo key list`."),
        TrustError::OwnKey { .. } => {
            plain.hint("Run it with another key file that holds the root key, with BACKSTAY_KEY_FILE.")
        }
        TrustError::OwnRecipient { .. } => {
            plain.hint("Run it with a key file that holds the master itself, with BACKSTAY_KEY_FILE.")
        }
        TrustError::Unsealed => plain.hint("Make a new repository with `backstay init`, without `--unsealed`."),
        TrustError::PassphraseNeeded { name } => plain.hint(format!(
            "Run it where the passphrase can be typed, or first run `backstay repo key remove {name:?}`."
        )),
        TrustError::NowhereToWrite => plain.hint("Name a new file with `--key-file FILE`."),
        TrustError::NothingToHand { .. } => {
            plain.hint("Run it on the host that backs the source up now, or on one that can read.")
        }
        TrustError::BadAnswer { .. } => plain
            .hint("Run `backstay source join SOURCE --request` here, and make the answer again for what it prints."),
        TrustError::BadRecipient { .. } => plain.hint(
            "Give an `age1...` recipient, as `age-keygen` prints it, a line of an `id_ed25519.pub`, or `--passphrase`.",
        ),
    }
}

fn of_point(plain: Diagnostic, error: &NoPoint) -> Diagnostic {
    match error {
        NoPoint::Empty => plain.hint("Run `backstay backup` to make one."),
        NoPoint::NoneProven { .. } => {
            plain.hint("Run `backstay backup`, which proves what it stores, or name a point from `backstay list`.")
        }
        NoPoint::AllQuarantined => plain
            .hint("Run `backstay backup` for a new one; `--snapshot ID` restores a quarantined one at your own risk."),
        NoPoint::BeforeFirst { oldest, .. } => {
            plain.hint(format!("Ask for a later time, such as `--at {oldest}`; `backstay list` shows all points."))
        }
        NoPoint::UnknownId { .. } | NoPoint::UnknownLabel { .. } => {
            plain.hint("Run `backstay list` to see which there are.")
        }
        NoPoint::AmbiguousId { .. } => plain.hint("Write more digits of it; `backstay list --json` shows them all."),
        NoPoint::NotFollowed => plain.hint("Run `backstay follow` to have its commits kept from now on."),
        NoPoint::TxNotHeld { before, .. } => plain.hint(format!("Ask for an earlier state, such as `--tx {before}`.")),
        NoPoint::TxBeforeFirst { oldest, .. } => plain
            .hint(format!("Ask for a later state, such as `--tx {oldest}`."))
            .hint("What is older may be in a snapshot, without a number: `backstay list` shows them."),
        NoPoint::InGap { before, after, .. } => plain
            .hint(format!("Ask for one of them: `--at {before}` or `--at {after}`."))
            .hint("Or add `--nearest`, which takes the nearer one."),
        NoPoint::Rivals { a, b } => {
            plain.hint(format!("Choose one of them with `--snapshot {}` or `--snapshot {}`.", a.short(), b.short()))
        }
    }
}
