//! The folder of the demonstration, the commands run in it, and the second opinion on what it holds.

use crate::args;
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use backstay_model::{Kind, RepoId, seams};
use backstay_sqlite::sample;
use backstay_store::os::OsRandom;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub struct Stage<'a> {
    context: &'a Context,
    program: PathBuf,
    folder: PathBuf,
    leave: Leave,
}

/// What happens to the folder at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    Everything,
    /// The folder was there before: only what was put into it goes.
    EmptyFolder,
    Nothing,
}

/// Who made a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SumBy {
    /// The `sqlite3` program, over every row.
    Sqlite3,
    /// Every row compared as text that plain SQL gave.
    PlainSql,
}

impl SumBy {
    pub fn words(self) -> &'static str {
        match self {
            SumBy::Sqlite3 => "by the sqlite3 program",
            SumBy::PlainSql => "all rows, by plain SQL",
        }
    }
}

/// A digest of every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    pub by: SumBy,
    pub digest: String,
    /// The rows themselves, where no program made a digest of them.
    rows: String,
}

impl<'a> Stage<'a> {
    pub fn open(context: &'a Context, args: &args::Demo) -> Result<Self, Diagnostic> {
        let program = std::env::current_exe().map_err(|error| failed("find this program", &error))?;
        let (folder, there) = match &args.dir {
            None => (fresh_folder()?, false),
            Some(dir) => given_folder(&context.layers.working_dir.join(dir))?,
        };
        let leave = match (args.keep, there) {
            (true, _) => Leave::Everything,
            (false, true) => Leave::EmptyFolder,
            (false, false) => Leave::Nothing,
        };
        Ok(Self { context, program, folder, leave })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn say(&self, words: &str) {
        self.context.printer.talk(&format!("\n{words}"));
    }

    /// Runs this program in the folder, shows the line and what it says, and ends the demonstration if it fails.
    pub fn backstay(&self, words: &[&str]) -> Result<String, Diagnostic> {
        self.context.cancel.check()?;
        let line = format!("backstay {}", words.join(" "));
        self.context.printer.talk(&format!("$ {line}"));
        let out = self.output(words)?;
        out.lines().for_each(|line| self.context.printer.talk(&format!("  {line}")));
        Ok(out)
    }

    fn output(&self, words: &[&str]) -> Result<String, Diagnostic> {
        let mut command = Command::new(&self.program);
        for name in self.context.env().names().filter(|name| name.starts_with("BACKSTAY_")) {
            command.env_remove(name);
        }
        command.current_dir(&self.folder).args(words).arg("--no-color").stdin(Stdio::null());
        let done = command.output().map_err(|error| failed("run this program", &error))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if done.status.success() {
            return Ok(text(&done.stdout));
        }
        self.context.cancel.check()?;
        Err(Diagnostic::new(Kind::Internal, format!("`backstay {}` failed ({})", words.join(" "), done.status))
            .because([text(&done.stdout), text(&done.stderr)].join("\n").trim().to_owned())
            .hint("Run `backstay demo --keep`, then the same command in the folder it leaves."))
    }

    /// The id of the newest snapshot, as a script would learn it.
    pub fn newest_snapshot(&self) -> Result<String, Diagnostic> {
        let listed: serde_json::Value =
            serde_json::from_str(&self.output(&["list", "shop", "--json"])?).map_err(|error| {
                Diagnostic::new(Kind::Internal, "the list is not JSON")
                    .because(error.to_string())
                    .hint("Run `backstay demo --keep` and look at `backstay list --json`.")
            })?;
        Ok(listed["snapshots"][0]["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Writes over the middle of a file, as a stray program or a failing disk would.
    pub fn damage(&self, path: &Path) -> Result<(), Diagnostic> {
        let damaged = || -> io::Result<()> {
            let len = std::fs::metadata(path)?.len();
            let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
            file.seek(SeekFrom::Start(len / 4))?;
            let noise: Vec<u8> = (0..len / 2).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            file.write_all(&noise)
        };
        damaged().map_err(|error| failed(&format!("damage {}", path.display()), &error))
    }

    /// A digest of every row: by the `sqlite3` program if there is one that can, otherwise by plain SQL.
    pub fn sum(&self, path: &Path) -> Result<Sum, Diagnostic> {
        let asked = Command::new("sqlite3").arg("-batch").arg(path).arg(".sha3sum").stdin(Stdio::null()).output();
        let digest = asked.ok().filter(|done| done.status.success()).and_then(|done| {
            let text = String::from_utf8_lossy(&done.stdout);
            let digest = text.split_whitespace().next()?.to_owned();
            (digest.len() >= 56 && digest.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digest)
        });
        if let Some(digest) = digest {
            return Ok(Sum { by: SumBy::Sqlite3, digest, rows: String::new() });
        }
        let rows = sample::read_shop(path, None)?.rows;
        let digest = format!("{} rows of {} bytes", rows.lines().count(), rows.len());
        Ok(Sum { by: SumBy::PlainSql, digest, rows })
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // What cannot be removed is only a temporary folder; there is nobody to tell any more.
        let _ = match self.leave {
            Leave::Everything => Ok(()),
            Leave::Nothing => std::fs::remove_dir_all(&self.folder),
            Leave::EmptyFolder => empty(&self.folder),
        };
    }
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn fresh_folder() -> Result<PathBuf, Diagnostic> {
    let id = RepoId::from_bytes(seams::fresh(&OsRandom));
    let folder = std::env::temp_dir().join(format!("backstay-demo-{}", id.short()));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
    made.map_err(|error| failed(&format!("create {}", folder.display()), &error))?;
    Ok(folder)
}

/// The folder a person named, and whether it was there.
fn given_folder(folder: &Path) -> Result<(PathBuf, bool), Diagnostic> {
    let there = folder.is_dir();
    let full = || -> io::Result<bool> { Ok(there && std::fs::read_dir(folder)?.next().is_some()) };
    if full().map_err(|error| failed(&format!("look into {}", folder.display()), &error))? {
        return Err(Diagnostic::new(Kind::Conflict, format!("{} is not empty", folder.display()))
            .hint("Name a new or empty folder with `backstay demo --dir DIR`."));
    }
    let made = std::fs::create_dir_all(folder);
    made.map_err(|error| failed(&format!("create {}", folder.display()), &error))?;
    Ok((folder.to_owned(), there))
}

fn failed(what: &str, error: &io::Error) -> Diagnostic {
    Diagnostic::new(Kind::of_io(error), format!("cannot {what}"))
        .because(error.to_string())
        .hint("Name a folder you may write to with `backstay demo --dir DIR`.")
}
