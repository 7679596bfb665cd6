//! What `init` says it made.

use super::decide::Step;
use super::{Made, Places, Protect};
use crate::commands::backup::BackupView;
use crate::output::{Page, View};
use backstay_model::Verdict;
use std::path::PathBuf;

#[derive(serde::Serialize)]
pub struct InitView {
    pub verdict: Verdict,
    pub config: PathBuf,
    pub key_file: PathBuf,
    pub repository: String,
    pub repository_id: String,
    /// The public half of the root key.
    pub root: String,
    pub sealed: bool,
    /// Whether the store itself keeps two writers from taking one name.
    pub conditional_put: bool,
    pub steps: Vec<Step>,
    pub sources: Vec<Protect>,
    /// The first backup; absent with `--no-backup`.
    pub backup: Option<BackupView>,
}

impl InitView {
    pub fn of(places: &Places, made: &Made, steps: &[Step], sources: &[Protect]) -> Self {
        Self {
            verdict: Verdict::Pass,
            config: places.config.clone(),
            key_file: places.key_file.clone(),
            repository: places.repository.to_string(),
            repository_id: made.id.to_string(),
            root: made.root.to_string(),
            sealed: !made.unsealed,
            conditional_put: made.conditional_put,
            steps: steps.to_vec(),
            sources: sources.to_vec(),
            backup: None,
        }
    }
}

impl View for InitView {
    fn render(&self, page: &mut Page) {
        page.verdict(Verdict::Pass, "init", "the repository, its key and the configuration are there");
        let taken_up = |step| if self.steps.contains(&step) { " (was there, taken up)" } else { "" };
        page.evidence("config", &self.config.display().to_string());
        page.evidence("key", &format!("{}{}", self.key_file.display(), taken_up(Step::TakeUpKey)));
        let repository = format!("{}{}", self.repository, taken_up(Step::TakeUpRepository));
        page.evidence("repository", &repository);
        if !self.conditional_put {
            let rule = "the store overwrites: let exactly one host back up each source, and one do maintenance";
            page.evidence("ONE WRITER", rule);
        }
        for source in &self.sources {
            page.evidence("source", &format!("{} = {}", source.name, source.path.display()));
        }
        if !self.sealed {
            page.evidence("UNSEALED", "anyone who can read the repository can read the data");
        }
        if let Some(backup) = &self.backup {
            page.gap();
            backup.render(page);
        }
        page.gap();
        page.evidence("KEEP A COPY", "of the key away from this machine: without it the backups cannot be read.");
        page.evidence("then", "backstay repo key confirm --key-file COPY");
        page.next(if self.backup.is_some() { "backstay status" } else { "backstay backup" });
    }
}
