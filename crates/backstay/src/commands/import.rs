//! `backstay import`: old copies become snapshots of their own time, oldest first, each proven like a backup.
//!
//! When a copy was made is said by `--taken`, or by its name, or by the time of its last change: the report
//! says which. A copy that fails does not keep the others from being imported.

use super::backup::{self, SourceView, Wish};
use crate::args;
use crate::config::Settings;
use crate::config::settings::SourceSettings;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View, time};
use crate::vault;
use backstay_model::{Kind, Moment, ObjectId, SourceName, Verdict, moment};
use backstay_ops::OpsError;
use backstay_ops::backup::Malformed;
use backstay_ops::catalog::Vault;
use backstay_ops::import::{self, ImportRequest, Imported};
use jiff::tz::TimeZone;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What SQLite keeps beside a database is no copy by itself.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

pub async fn run(context: &Context, args: &args::Import) -> Outcome {
    let settings = context.settings()?;
    let source = settings.source(&args.source)?;
    let copies = copies(context, args)?;
    let wish = Wish {
        label: args.label.clone(),
        keep: args.keep.map(|keep| backup::kept(keep, context.clock.now())).transpose()?,
        malformed: if args.as_is { Malformed::CaptureAsIs } else { Malformed::Refuse },
    };
    let vault = vault::open(context, &settings).await?;
    let zone = context.zone.clone();
    let mut view = ImportView { verdict: Verdict::Pass, source: source.name.clone(), copies: Vec::new(), zone };
    for copy in copies {
        context.cancel.check()?;
        let job = Job { settings: &settings, vault: &vault, source, wish: &wish, size_max: args.size_max };
        match job.one(&copy).await {
            Ok(row) => view.copies.push(row),
            Err(OpsError::Cancelled) => return Err(Diagnostic::cancelled()),
            Err(error) => view.copies.push(CopyView::failed(&copy, &Diagnostic::from(error))),
        }
    }
    view.verdict = view.copies.iter().fold(Verdict::Pass, |all, row| all.and(row.verdict));
    context.printer.show(&view)?;
    Ok(Done::With(view.verdict))
}

/// A file, and when it was the newest state.
struct Copy {
    file: PathBuf,
    taken: Moment,
    told_by: TimeFrom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeFrom {
    Flag,
    Name,
    LastChange,
}

/// The copies, oldest first.
fn copies(context: &Context, args: &args::Import) -> Result<Vec<Copy>, Diagnostic> {
    let dir = &context.layers.working_dir;
    let mut files: Vec<PathBuf> = args.files.iter().map(|file| dir.join(file)).collect();
    for pattern in &args.glob {
        files.extend(matching(&dir.join(pattern))?);
    }
    files.sort();
    files.dedup();
    if args.taken.is_some() && files.len() > 1 {
        return Err(Diagnostic::new(Kind::Usage, "`--taken` is the time of one copy, and several are named")
            .hint("Import them one by one, or leave `--taken` out: the time in a name is understood."));
    }
    if files.is_empty() {
        return Err(Diagnostic::new(Kind::Usage, "no file fits the pattern")
            .hint("Put the pattern in quotes: `--glob 'old/*.db.gz'`."));
    }
    let mut copies = files.into_iter().map(|file| copy(context, args, file)).collect::<Result<Vec<_>, _>>()?;
    copies.sort_by_key(|copy| copy.taken);
    Ok(copies)
}

fn copy(context: &Context, args: &args::Import, file: PathBuf) -> Result<Copy, Diagnostic> {
    let changed = last_change(&file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (taken, told_by) = match (&args.taken, moment::in_name(&name, &context.zone)) {
        (Some(text), _) => (context.read_time(text)?, TimeFrom::Flag),
        // The file was written on the day in its name: its own time is the more exact one.
        (None, Some(named)) if named.is_day && named.covers(changed, &context.zone) => (changed, TimeFrom::LastChange),
        (None, Some(named)) => (named.at, TimeFrom::Name),
        (None, None) => (changed, TimeFrom::LastChange),
    };
    if taken > context.clock.now() {
        return Err(Diagnostic::new(
            Kind::Usage,
            format!("{} would be from {taken}, which is yet to come", file.display()),
        )
        .hint("Say when it was made with `--taken`."));
    }
    Ok(Copy { file, taken, told_by })
}

fn last_change(file: &Path) -> Result<Moment, Diagnostic> {
    let unreadable = |error: std::io::Error| {
        Diagnostic::new(Kind::of_io(&error), format!("cannot look at {}", file.display()))
            .because(error.to_string())
            .hint(format!("Look for it with `ls -l {}`.", file.display()))
    };
    let changed = std::fs::metadata(file).and_then(|found| found.modified()).map_err(unreadable)?;
    let millis = changed.duration_since(UNIX_EPOCH).map_or(0, vault::millis);
    Ok(Moment::from_millis(millis).unwrap_or(Moment::from_millis(0).expect("the epoch is in range")))
}

/// The files of one folder whose names fit; stars and question marks stand in the name alone.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>, Diagnostic> {
    let folder = pattern.parent().unwrap_or(Path::new("."));
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = std::fs::read_dir(folder).map_err(|error| {
        Diagnostic::new(Kind::of_io(&error), format!("cannot look into {}", folder.display()))
            .because(error.to_string())
            .hint("A pattern may have `*` and `?` in the name of the file, not in its folder.")
    })?;
    let is_copy =
        |found: &str| fits(name.as_bytes(), found.as_bytes()) && !BESIDE.iter().any(|end| found.ends_with(end));
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    Ok(files.filter(|entry| is_copy(&entry.file_name().to_string_lossy())).map(|entry| entry.path()).collect())
}

/// Whether a name fits a pattern. Goes back to the last star only, so that it ends soon on any pattern.
pub fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from, mut star) = (0, 0, None);
    while let Some(byte) = name.get(from) {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at, from));
                at += 1;
            }
            (Some(wanted), _) if *wanted == b'?' || wanted == byte => (at, from) = (at + 1, from + 1),
            (_, Some((back, taken))) => {
                star = Some((back, taken + 1));
                (at, from) = (back + 1, taken + 1);
            }
            (_, None) => return false,
        }
    }
    pattern.iter().skip(at).all(|rest| *rest == b'*')
}

struct Job<'a> {
    settings: &'a Settings,
    vault: &'a Vault,
    source: &'a SourceSettings,
    wish: &'a Wish,
    size_max: backstay_model::ByteLen,
}

impl Job<'_> {
    async fn one(&self, copy: &Copy) -> Result<CopyView, OpsError> {
        let mut wanted = backup::request(self.settings, self.source, self.wish);
        wanted.path = copy.file.clone();
        let request = ImportRequest {
            copy: wanted,
            taken: copy.taken,
            size_max: self.size_max,
            folder: backup::proof_folder(&self.source.policy.proof),
        };
        Ok(match import::import(self.vault, &request).await? {
            Imported::Known { snapshot, .. } => CopyView::known(copy, snapshot),
            Imported::Stored(report) => {
                let looked = backup::look_at(self.vault, self.source, *report, self.wish.malformed).await?;
                CopyView::stored(copy, looked)
            }
        })
    }
}

#[derive(serde::Serialize)]
pub struct ImportView {
    pub verdict: Verdict,
    pub source: SourceName,
    /// Oldest first.
    pub copies: Vec<CopyView>,
    #[serde(skip)]
    pub zone: TimeZone,
}

/// What came of one copy.
#[derive(serde::Serialize)]
pub struct CopyView {
    pub file: PathBuf,
    pub taken: Moment,
    pub taken_from: TimeFrom,
    pub verdict: Verdict,
    pub outcome: String,
    pub snapshot: Option<String>,
    /// It was in the repository already, and nothing was done.
    pub known: bool,
    /// As after a backup.
    pub stored: Option<SourceView>,
    pub error: Option<serde_json::Value>,
}

impl CopyView {
    fn of(copy: &Copy, verdict: Verdict, outcome: String) -> Self {
        let (file, taken, taken_from) = (copy.file.clone(), copy.taken, copy.told_by);
        Self { file, taken, taken_from, verdict, outcome, snapshot: None, known: false, stored: None, error: None }
    }

    fn known(copy: &Copy, snapshot: ObjectId) -> Self {
        let outcome = format!("is in the repository already, as {}; nothing was done", snapshot.short());
        Self { snapshot: Some(snapshot.to_string()), known: true, ..Self::of(copy, Verdict::Pass, outcome) }
    }

    fn stored(copy: &Copy, looked: SourceView) -> Self {
        let snapshot = looked.snapshot.clone();
        Self { snapshot, ..Self::of(copy, looked.verdict, looked.outcome.clone()) }.with(looked)
    }

    fn with(self, looked: SourceView) -> Self {
        Self { stored: Some(looked), ..self }
    }

    fn failed(copy: &Copy, diagnostic: &Diagnostic) -> Self {
        let outcome = [vec![diagnostic.what.clone()], diagnostic.because.clone()].concat().join(": ");
        let error = diagnostic.json().get("error").cloned();
        Self { error, ..Self::of(copy, Verdict::Fail, outcome) }
    }
}

impl View for ImportView {
    fn render(&self, page: &mut Page) {
        for copy in &self.copies {
            page.verdict(copy.verdict, &copy.file.display().to_string(), &copy.outcome);
            let from = match copy.taken_from {
                TimeFrom::Flag => "as said",
                TimeFrom::Name => "from its name",
                TimeFrom::LastChange => "its last change",
            };
            page.evidence("taken", &format!("{}, {from}", time::resolved(copy.taken, &self.zone)));
            if let Some(id) = &copy.snapshot {
                page.evidence("snapshot", id);
            }
            if let Some(hint) = copy.error.as_ref().and_then(|error| error["hints"][0].as_str()) {
                page.evidence("fix", hint);
            }
        }
        if self.copies.iter().any(|copy| copy.snapshot.is_some()) {
            page.next(&format!("backstay list {}", self.source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_pattern_fits_as_in_a_shell() {
        let fit = |pattern: &str, name: &str| fits(pattern.as_bytes(), name.as_bytes());
        assert!(fit("*.db", "a.db") && fit("shop-*-?.db*", "shop-2026-1.db.gz") && fit("*", "") && fit("a", "a"));
        assert!(!fit("*.db", "a.db.gz") && !fit("?", "") && !fit("a*b", "ac") && !fit("", "a"));
        assert!(!fit(&"*a".repeat(30), &"b".repeat(3000)));
    }
}
