//! Which databases `init` protects: those that were named, or those it finds nearby.

use super::Places;
use crate::args;
use crate::config::Settings;
use crate::confirm::Asking;
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use backstay_model::{Kind, SourceName};
use backstay_sqlite::{Capture, CaptureOptions, DetectLimits, FileIdentity, SqliteError};
use std::collections::BTreeSet;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A database to be protected, with its path as it was typed or found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Protect {
    pub name: SourceName,
    pub path: PathBuf,
}

/// Chooses and looks at every one of them. Writes nothing; an unusable one ends `init` before it began.
pub fn chosen(
    context: &Context,
    args: &args::Init,
    places: &Places,
    defaults: &Settings,
) -> Result<Vec<Protect>, Diagnostic> {
    let asking = Asking::of(&context.printer);
    if !args.yes && asking == Asking::Impossible {
        return Err(Diagnostic::new(Kind::Usage, "`init` has nobody to ask here; nothing was made")
            .hint("Run `backstay init --yes --source NAME=PATH`."));
    }
    let working_dir = &context.layers.working_dir;
    let protect = if args.sources.is_empty() {
        found(working_dir, places)?
    } else {
        args.sources.iter().map(|s| Protect { name: s.name.clone(), path: s.path.clone() }).collect()
    };
    refuse_doubles(working_dir, &protect)?;
    for source in &protect {
        look(context, &working_dir.join(&source.path), &source.path, defaults.general.capture.busy_timeout)?;
    }
    if !args.yes {
        ask(context, places, &protect)?;
    }
    Ok(protect)
}

/// Everything detection finds, except in the repository.
fn found(working_dir: &Path, places: &Places) -> Result<Vec<Protect>, Diagnostic> {
    let mut protect: Vec<Protect> = Vec::new();
    let databases = backstay_sqlite::detect(working_dir, DetectLimits::USUAL);
    for database in databases.into_iter().filter(|found| !places.repository.holds(&found.path)) {
        let relative = database.path.strip_prefix(working_dir).unwrap_or(&database.path);
        let stem = relative.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let taken: BTreeSet<String> = protect.iter().map(|source| source.name.to_string()).collect();
        protect.push(Protect { name: free_name(&stem, &taken), path: Path::new(".").join(relative) });
    }
    if protect.is_empty() {
        return Err(Diagnostic::new(Kind::Usage, "there is no SQLite database in this folder or below it")
            .hint("Name one with `backstay init --source NAME=PATH`."));
    }
    Ok(protect)
}

/// The nearest legal name nobody has yet.
fn free_name(stem: &str, taken: &BTreeSet<String>) -> SourceName {
    let suggested = SourceName::suggest(stem);
    let numbered = (2..).map(|n| SourceName::suggest(&format!("{:.60}-{n}", suggested.as_str())));
    let mut names = std::iter::once(suggested.clone()).chain(numbered);
    names.find(|name| !taken.contains(name.as_str())).unwrap_or(suggested)
}

fn refuse_doubles(working_dir: &Path, protect: &[Protect]) -> Result<(), Diagnostic> {
    let (mut names, mut files) = (BTreeSet::new(), BTreeSet::new());
    for source in protect {
        let file = FileIdentity::of_path(&working_dir.join(&source.path)).ok();
        let fresh_file = file.is_none_or(|file| files.insert((file.device, file.inode)));
        if !names.insert(source.name.clone()) || !fresh_file {
            return Err(Diagnostic::new(
                Kind::Usage,
                format!("`{}` is named twice, or is the same file as another", source.name),
            )
            .hint("Run it again with one `--source NAME=PATH` for each database."));
        }
    }
    Ok(())
}

/// Opens it as a backup would. What only a moment or another program keeps from being read is no reason to refuse.
fn look(context: &Context, path: &Path, typed: &Path, busy: Duration) -> Result<(), Diagnostic> {
    let options = CaptureOptions { busy, ..CaptureOptions::in_dir(std::env::temp_dir()) };
    let opened = tokio::task::block_in_place(|| Capture::open(path, options, context.clock.clone()));
    let unfit = |words: &str| {
        Diagnostic::new(Kind::Config, format!("{} {words}; nothing was made", typed.display()))
            .hint("Name the database file itself with `--source NAME=PATH`.")
    };
    match opened {
        Ok(_) | Err(SqliteError::Locked { .. } | SqliteError::Replaced { .. } | SqliteError::PinLost { .. }) => Ok(()),
        Err(SqliteError::Missing { .. }) => Err(unfit("does not exist")),
        Err(SqliteError::NotAFile { .. }) => Err(unfit("is not a file")),
        Err(SqliteError::NotADatabase { .. } | SqliteError::Encrypted { .. }) => {
            Err(unfit("is not a SQLite database, or encrypted by another tool"))
        }
        Err(error) => Err(error.into()),
    }
}

/// One question about everything, since everything can be changed in backstay.toml afterwards.
fn ask(context: &Context, places: &Places, protect: &[Protect]) -> Result<(), Diagnostic> {
    context.printer.talk("These databases will be protected:");
    for source in protect {
        context.printer.talk(&format!("  {:<16}  {}", source.name.as_str(), source.path.display()));
    }
    context.printer.talk(&format!("Backups go to {}, the key to {}.", places.repository, places.key_file.display()));
    context.printer.talk("Go on? [Y/n]");
    let mut answer = String::new();
    let read = std::io::stdin().lock().take(64).read_line(&mut answer);
    match (read, answer.trim().to_lowercase().as_str()) {
        (Ok(1..), "" | "y" | "yes") => Ok(()),
        _ => Err(Diagnostic::new(Kind::Cancelled, "not wanted; nothing was made")
            .hint("Name what you want with `backstay init --source NAME=PATH --repo DIR`.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_taken_get_a_number() {
        let taken = BTreeSet::from(["shop".to_owned(), "shop-2".to_owned()]);
        assert_eq!(free_name("Shop", &taken).as_str(), "shop-3");
        assert_eq!(free_name("other", &taken).as_str(), "other");
    }
}
