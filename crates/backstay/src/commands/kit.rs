//! `backstay repo key kit` and `export`: the key, carried away from this machine.

use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View};
use crate::vault;
use backstay_model::Verdict;
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::kit::{self, Head, Kit};
use backstay_ops::masters::write_new;
use backstay_store::local::OpenMode;
use std::path::{Path, PathBuf};

/// So that nothing has to be found on the day it is needed.
const SCRIPT: &str = include_str!("../../../../contrib/recover.py");
const PAGE: &str = include_str!("../../../../docs/recover-without-backstay.md");
const SHEET: &str = include_str!("kit/sheet.html");

struct Gathered {
    vault: Vault,
    kit: Kit,
    location: String,
}

async fn gather(context: &Context) -> Result<Gathered, Diagnostic> {
    let settings = context.settings()?;
    let keys = vault::load_keys(context, settings.key.as_ref()).await?;
    let store = vault::store(context, &vault::Reached::of(&settings), OpenMode::Existing).await?;
    let vault = vault::open_with(context, &settings, store, keys.clone()).await?;
    let kit = kit::gather(&vault, &keys).await?;
    Ok(Gathered { vault, kit, location: settings.repository.to_string() })
}

pub async fn kit(context: &Context, to: &Path) -> Outcome {
    let Gathered { vault, kit, location } = gather(context).await?;
    let folder = context.layers.working_dir.join(to);
    let sheet = sheet(&kit, &location);
    let files = [
        ("backstay.key", kit.key.as_bytes()),
        ("kit.html", sheet.as_bytes()),
        ("recover.py", SCRIPT.as_bytes()),
        ("recover-without-backstay.md", PAGE.as_bytes()),
    ];
    let files = kit::write(&vault, &folder, &files)?;
    let not_recorded = kit::note(&vault, &kit).await;
    context.printer.show(&KitView { verdict: Verdict::Pass, folder, files, heads: kit.heads, not_recorded })?;
    Ok(Done::With(Verdict::Pass))
}

/// The page to print: one file that needs nothing else.
fn sheet(kit: &Kit, location: &str) -> String {
    let heads: String = kit.heads.iter().map(row).collect();
    let values = [
        ("{{location}}", escaped(location)),
        ("{{repository}}", kit.repo.to_string()),
        ("{{root}}", kit.root.to_string()),
        ("{{at}}", kit.at.to_string()),
        ("{{heads}}", heads),
        ("{{key}}", escaped(&kit.key)),
    ];
    values.iter().fold(SHEET.to_owned(), |page, (name, value)| page.replace(name, value))
}

fn row(head: &Head) -> String {
    let Head { source, snapshot, sequence, taken, digest } = head;
    format!("<tr><td>{source}</td><td>{sequence}</td><td>{taken}</td><td>{snapshot}</td><td>{digest}</td></tr>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[derive(serde::Serialize)]
pub struct KitView {
    pub verdict: Verdict,
    pub folder: PathBuf,
    pub files: Vec<PathBuf>,
    /// The newest snapshot of each source, as the kit has it.
    pub heads: Vec<Head>,
    pub not_recorded: Option<String>,
}

impl View for KitView {
    fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, "kit", "everything a restore needs, in one folder");
        for file in &self.files {
            page.evidence("file", &file.display().to_string());
        }
        page.evidence("print", "kit.html, from a browser that is offline; then lock the paper away");
        page.evidence("SECRET", "whoever finds it and the repository can read everything");
        if let Some(why) = &self.not_recorded {
            page.evidence("NOT RECORDED", why);
        }
        page.next(&format!("backstay repo key confirm --key-file {}", self.folder.join("backstay.key").display()));
    }
}

pub async fn export(context: &Context, to: Option<&Path>) -> Outcome {
    let Gathered { vault, kit, .. } = gather(context).await?;
    let file = to.map(|path| context.layers.working_dir.join(path));
    if let Some(path) = &file {
        write_new(&OsDisk, path, kit.key.as_bytes())?;
    }
    let not_recorded = kit::note(&vault, &kit).await;
    let key = file.is_none().then_some(kit.key);
    context.printer.show(&ExportView { verdict: Verdict::Pass, file, key, not_recorded })?;
    Ok(Done::With(Verdict::Pass))
}

#[derive(serde::Serialize)]
pub struct ExportView {
    pub verdict: Verdict,
    pub file: Option<PathBuf>,
    /// The secret itself; only where it was asked for.
    pub key: Option<String>,
    pub not_recorded: Option<String>,
}

impl View for ExportView {
    fn render(&self, page: &mut Page) {
        if let Some(key) = &self.key {
            key.lines().for_each(|line| page.line(line));
            return;
        }
        let file = self.file.as_ref().map_or_else(String::new, |file| file.display().to_string());
        page.verdict(self.verdict, "key", "a copy that opens everything");
        page.evidence("file", &file);
        if let Some(why) = &self.not_recorded {
            page.evidence("NOT RECORDED", why);
        }
        page.next(&format!("backstay repo key confirm --key-file {file}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_model::{Moment, RepoId, SignerKey};

    #[test]
    fn the_sheet_needs_nothing_else_and_every_value_is_in_it() {
        let head = Head {
            source: "shop".parse().expect("a name"),
            snapshot: backstay_model::ObjectId::from_bytes([7; 16]),
            sequence: backstay_model::Sequence::new(12),
            taken: Moment::from_millis(0).expect("in range"),
            digest: backstay_model::Digest::from_bytes([9; 32]),
        };
        let kit = Kit {
            at: Moment::from_millis(0).expect("in range"),
            repo: RepoId::ZERO,
            root: SignerKey::from_bytes([3; 32]),
            master: "age1".to_owned(),
            key: "# a <key>\nAGE-SECRET-KEY-1\n".to_owned(),
            heads: vec![head],
        };
        let page = sheet(&kit, "s3://vaults/<shop>");
        assert!(!page.contains("{{") && page.contains("s3://vaults/&lt;shop&gt;") && page.contains("# a &lt;key&gt;"));
        assert!(page.contains(&"09".repeat(32)) && page.contains(&"03".repeat(32)));
        for outside in ["<script", "<link", "src=", "href=", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
