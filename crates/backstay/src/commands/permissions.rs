//! `backstay repo audit-perms`: what the credentials at hand may do in the store, against the roles they are for.

use crate::args;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View};
use crate::vault;
use backstay_format::facts::Role;
use backstay_model::{Kind, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::permissions::{self, Act, Answer, Area, PermissionsReport, Tried, Want};
use backstay_store::local::OpenMode;

pub async fn run(context: &Context, args: &args::AuditPerms) -> Outcome {
    let settings = context.settings()?;
    let keys = vault::load_keys(context, settings.key.as_ref()).await?;
    let holds_root = keys.root.is_some();
    let store = vault::store(context, &vault::Reached::of(&settings), OpenMode::Existing).await?;
    let vault = vault::open_with(context, &settings, store, keys).await?;
    let mut roles: Vec<Role> = args.roles.iter().map(|role| role.0).collect();
    if roles.is_empty() {
        roles = own_roles(&vault);
    }
    if roles.is_empty() {
        return Err(Diagnostic::new(
            Kind::Usage,
            "the key here is enrolled as nothing, so there is nothing to compare with",
        )
        .hint("Say what the credentials are meant for, such as `--roles writer`."));
    }
    let report = permissions::audit(&vault, &roles, holds_root).await?;
    let verdict = report.verdict;
    context.printer.show(&PermissionsView(report))?;
    Ok(Done::With(verdict))
}

fn own_roles(vault: &Vault) -> Vec<Role> {
    let own = vault.signer.as_ref().map(|signer| signer.public());
    let signers = &vault.repo.conf().signers;
    let mine = signers.iter().filter(|s| s.retired.is_none() && Some(s.key) == own);
    mine.flat_map(|s| s.roles.clone()).collect()
}

#[derive(serde::Serialize)]
#[serde(transparent)]
pub struct PermissionsView(PermissionsReport);

impl View for PermissionsView {
    fn render(&self, page: &mut Page) {
        let report = &self.0;
        let words = match report.verdict {
            Verdict::Pass => "these credentials may do what they need, and no more",
            Verdict::Partial => "these credentials may do more than they need",
            Verdict::Fail => "these credentials may not do all they need",
            Verdict::Inconclusive => "the store did not answer everything",
        };
        page.verdict(report.verdict, &role_words(&report.roles), words);
        for area in Area::ALL {
            let of_area = report.tried.iter().filter(|tried| tried.area == area);
            let cells: Vec<String> = of_area.map(|tried| format!("{} {}", act(tried.act), answer(tried))).collect();
            page.evidence(area.prefix(), &cells.join("  "));
        }
        let could_be = if report.could_be.is_empty() { "no role".to_owned() } else { role_words(&report.could_be) };
        page.evidence("could be", &could_be);
        for probe in &report.left {
            page.evidence("probe left", &format!("{probe} (it may be created here and not deleted)"));
        }
        if report.verdict != Verdict::Pass {
            page.evidence("then", "change the policy of the store; docs/keys-and-custody.md has one for each role");
        }
    }
}

fn role_words(roles: &[Role]) -> String {
    roles.iter().map(|role| role.word()).collect::<Vec<_>>().join(", ")
}

fn act(act: Act) -> &'static str {
    match act {
        Act::Create => "create",
        Act::Read => "read",
        Act::List => "list",
        Act::Delete => "delete",
    }
}

fn answer(tried: &Tried) -> &'static str {
    match (&tried.answer, tried.want) {
        (Answer::Allowed, Want::MustNot) => "YES(!)",
        (Answer::Allowed, _) => "yes",
        (Answer::Refused, Want::Must) => "NO(!)",
        (Answer::Refused, _) => "no",
        (Answer::Unknown { .. }, _) => "?",
    }
}
