//! What a person has run around backups and restores, and whom a backup pings.

use super::error::ConfigError;
use super::raw::Written;
use super::settings::Below;
use super::value::Named;
use std::time::Duration;

/// What is run and asked around the work on one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    pub before_backup: Option<Hook>,
    pub after_backup: Option<Hook>,
    /// Around a restore in place alone: a new file disturbs nobody.
    pub before_restore: Option<Hook>,
    pub after_restore: Option<Hook>,
    /// Asked after a restore in place until it answers well or its time is up.
    pub health: Option<Address>,
    /// Told when a backup begins and how it ended.
    pub ping: Option<Address>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub run: Run,
    pub on_failure: OnFailure,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// A program and its arguments, without a shell.
    Words(Vec<String>),
    /// A line for `sh -c`.
    Line(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Before the work: it is not begun. After it: the verdict is a failure.
    Abort,
    Warn,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub url: String,
    pub deadline: Duration,
}

impl Hooks {
    pub(super) fn read(below: &Below<'_, '_>) -> Result<Self, ConfigError> {
        Ok(Self {
            before_backup: hook(below, "before_backup")?,
            after_backup: hook(below, "after_backup")?,
            before_restore: hook(below, "before_restore")?,
            after_restore: hook(below, "after_restore")?,
            health: address(below, ["hooks.health_url", "hooks.health_deadline"])?,
            ping: address(below, ["ping.url", "ping.deadline"])?,
        })
    }
}

fn hook(below: &Below<'_, '_>, name: &str) -> Result<Option<Hook>, ConfigError> {
    let Some(run) = below.maybe(&format!("hooks.{name}.run"), run)? else { return Ok(None) };
    let policies = [("abort", OnFailure::Abort), ("warn", OnFailure::Warn)];
    Ok(Some(Hook {
        run,
        on_failure: below.with(&format!("hooks.{name}.on_failure"), |named| named.choice(&policies))?,
        timeout: below.with(&format!("hooks.{name}.timeout"), |named| named.duration())?,
    }))
}

fn run(named: Named<'_>) -> Result<Run, ConfigError> {
    let wanted = "a list of words such as [\"systemctl\", \"stop\", \"shop\"], or a line for the shell";
    match &named.leaf.written {
        Written::List(words) if words.first().is_some_and(|program| !program.is_empty()) => {
            Ok(Run::Words(words.clone()))
        }
        Written::Text(line) if !line.trim().is_empty() => Ok(Run::Line(line.clone())),
        _ => Err(named.bad(wanted)),
    }
}

fn address(below: &Below<'_, '_>, [url, deadline]: [&str; 2]) -> Result<Option<Address>, ConfigError> {
    let wanted = "an address that begins with http:// or https://";
    let text = |named: Named<'_>| {
        let text = named.text(wanted)?;
        let is_address = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
        if is_address { Ok(text.to_owned()) } else { Err(named.bad(wanted)) }
    };
    let Some(url) = below.maybe(url, text)? else { return Ok(None) };
    Ok(Some(Address { url, deadline: below.with(deadline, |named| named.duration())? }))
}
