//! `backstay repo mend`: the newest configuration, put back where the store has lost it.

use crate::context::{Context, Done, Outcome};
use crate::output::{Page, View};
use crate::vault::{self, Reached};
use backstay_model::Verdict;
use backstay_ops::open::{self, MendReport};
use backstay_store::local::OpenMode;

pub async fn run(context: &Context) -> Outcome {
    let settings = context.settings()?;
    let keys = vault::load_keys(context, settings.key.as_ref()).await?;
    let root = vault::pinned_root(&settings, &keys)?;
    let store = vault::store(context, &Reached::of(&settings), OpenMode::Existing).await?;
    let report = open::mend(store, root, &settings.state_dir).await?;
    context.printer.show(&MendedView { verdict: Verdict::Pass, report })?;
    Ok(Done::With(Verdict::Pass))
}

#[derive(serde::Serialize)]
pub struct MendedView {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub report: MendReport,
}

impl View for MendedView {
    fn render(&self, page: &mut Page) {
        let generation = self.report.generation;
        let words = match self.report.put_back {
            true => format!("configuration {generation} is back, byte for byte as this host has kept it"),
            false => format!("configuration {generation} stands; nothing was lost that this host has seen"),
        };
        page.verdict(self.verdict, "repository", &words);
        page.next("backstay check");
    }
}
