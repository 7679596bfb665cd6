//! `backstay repo enroll`: a request made on a new host, and its acceptance where the root key is.

use super::init::said_of_the_store;
use crate::args;
use crate::config::raw;
use crate::config::write::FreshConfig;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View};
use crate::vault::RootHolder;
use backstay_format::facts::{Enrolment, EnrolmentRequest, Role, is_plain_name};
use backstay_model::{Kind, SignerKey, Verdict};
use backstay_ops::OpsError;
use backstay_ops::disk::OsDisk;
use backstay_ops::masters::write_new;
use backstay_ops::trust::{self, Enrol, EnrolReport, TrustError};
use backstay_store::keyfile::KeyFile;
use backstay_store::os::OsRandom;
use backstay_store::seal::MasterIdentity;
use backstay_store::signing::SigningKey;
use std::path::PathBuf;

pub async fn run(context: &Context, args: &args::Enroll) -> Outcome {
    match &args.accept {
        Some(file) => accept(context, args, file).await,
        None => request(context, args),
    }
}

/// Makes the key file first: a request whose key is lost would enrol nobody.
fn request(context: &Context, args: &args::Enroll) -> Outcome {
    let name = args.name.clone().unwrap_or_default();
    if !is_plain_name(&name) {
        return Err(OpsError::from(TrustError::BadName { name }).into());
    }
    let roles: Vec<Role> = args.role.iter().map(|role| role.0).collect();
    let working_dir = &context.layers.working_dir;
    let key_file = working_dir.join(args.key_file.strip_prefix("./").unwrap_or(&args.key_file));
    let request_file = working_dir.join(args.to.clone().unwrap_or_else(|| PathBuf::from(file_name(&name))));
    let identity = roles.contains(&Role::Reader).then(MasterIdentity::generate);
    let signer = SigningKey::generate(&OsRandom);
    let request = EnrolmentRequest {
        made: context.clock.now(),
        name: name.clone(),
        key: signer.public(),
        roles: roles.clone(),
        recipient: identity.as_ref().map(|identity| identity.master().text().to_owned()),
    };
    let signature = signer.sign(&request.message()).iter().map(|byte| format!("{byte:02x}")).collect();
    let enrolment = Enrolment { request, signature };
    let keys = KeyFile { signer: Some(signer), identity, ..KeyFile::default() };
    if request_file.symlink_metadata().is_ok() {
        return Err(OpsError::TargetExists { path: request_file }.into());
    }
    write_new(&OsDisk, &key_file, keys.render_for_host(&name, context.clock.now()).as_bytes())?;
    write_new(&OsDisk, &request_file, &enrolment.encode())?;
    let key = enrolment.request.key;
    context.printer.show(&RequestView { verdict: Verdict::Pass, name, roles, key, key_file, request_file })?;
    Ok(Done::With(Verdict::Pass))
}

/// A name that is one file's, whatever stands in it.
fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    format!("{}.request", name.chars().map(plain).collect::<String>().trim_start_matches('.'))
}

#[derive(serde::Serialize)]
pub struct RequestView {
    pub verdict: Verdict,
    pub name: String,
    pub roles: Vec<Role>,
    pub key: SignerKey,
    pub key_file: PathBuf,
    pub request_file: PathBuf,
}

impl View for RequestView {
    fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, &self.name, "a key for this host, and a request to enrol it");
        page.evidence("key", &format!("{} (secret: it stays here)", self.key_file.display()));
        page.evidence("request", &format!("{} (holds no secret)", self.request_file.display()));
        page.evidence("public key", &self.key.to_string());
        page.evidence("then", "carry the request to where the root key is, and run there:");
        let roles = words(&self.roles);
        page.next(&format!("backstay repo enroll --accept {} --roles {roles}", self.request_file.display()));
    }
}

fn words(roles: &[Role]) -> String {
    roles.iter().map(|role| role.word()).collect::<Vec<_>>().join(",")
}

async fn accept(context: &Context, args: &args::Enroll, file: &std::path::Path) -> Outcome {
    let settings = context.settings()?;
    let path = context.layers.working_dir.join(file);
    let text = raw::read_file(&path)?;
    let asked = Enrolment::parse(text.as_bytes()).map_err(|error| {
        Diagnostic::new(Kind::Usage, format!("{} is not an enrolment request", path.display()))
            .because(error.to_string())
            .hint("Make it on the new host with `backstay repo enroll --request --role writer --name NAME`.")
    })?;
    let mut roles: Vec<Role> = args.roles.iter().map(|role| role.0).collect();
    roles.dedup();
    let holder = RootHolder::open(context, &settings).await?;
    let report = trust::enrol(&holder.custodian(), Enrol { asked: &asked, roles: &roles }).await?;
    let config = FreshConfig {
        repository: settings.repository.to_string(),
        store: said_of_the_store(&settings),
        root: holder.vault.repo.root(),
        key_file: Some("./backstay.key".into()),
        sources: Vec::new(),
    };
    context.printer.show(&EnrolledView { verdict: Verdict::Pass, report, config: config.render() })?;
    Ok(Done::With(Verdict::Pass))
}

#[derive(serde::Serialize)]
pub struct EnrolledView {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub report: EnrolReport,
    /// What the host's backstay.toml must say, besides its sources.
    pub config: String,
}

impl View for EnrolledView {
    fn render(&self, page: &mut Page) {
        let report = &self.report;
        page.verdict(self.verdict, &report.name, &format!("enrolled as {}", words(&report.roles)));
        page.evidence("public key", &report.key.to_string());
        let reads = if report.can_read { "yes: the key is wrapped to it" } else { "no: it cannot read backups" };
        page.evidence("reads", reads);
        if let Some(why) = &report.not_recorded {
            page.evidence("NOT RECORDED", why);
        }
        page.evidence(
            "there",
            "this is its backstay.toml; add a table [sources.NAME] with its `path` for each database:",
        );
        page.gap();
        self.config.lines().for_each(|line| page.line(line));
        page.gap();
        page.next("backstay doctor, on that host");
    }
}
