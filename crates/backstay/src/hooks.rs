//! Programs that a person wants run around a backup or a restore, and addresses that are asked or told.
//!
//! Owns the child: its environment, what of its output is shown, and its end. A hook runs in a process
//! group of its own, which is killed as a whole when its time is up or this program is stopped. It never
//! sees key material, nor the store's credentials.

use crate::config::hooks::{Address, Hook, OnFailure, Run};
use crate::context::Context;
use backstay_model::{SourceName, Verdict};
use rustix::process::{Pid, Signal, kill_process_group};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// Bytes of each channel of a hook that are shown.
const SHOWN_MAX: usize = 64 * 1024;
/// How long output is still waited for when the hook itself has ended: what it left running may hold the
/// channels for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Between two questions to a health address that does not answer well.
const BETWEEN_PROBES: Duration = Duration::from_millis(250);
/// Variables a hook does not inherit: what is in them opens the repository or the store.
const WITHHELD: [&str; 4] = ["BACKSTAY_", "AWS_", "AZURE_", "GOOGLE_"];

/// What a hook is told, in `BACKSTAY_*` variables.
pub struct Told<'a> {
    pub hook: &'static str,
    pub source: &'a SourceName,
    pub path: &'a Path,
    pub config: &'a Path,
    pub verdict: Option<Verdict>,
    pub snapshot: Option<String>,
}

/// What came of a hook, a probe or a ping.
#[derive(Debug, Clone, serde::Serialize)]
pub struct HookDone {
    pub hook: &'static str,
    pub passed: bool,
    pub outcome: String,
    pub on_failure: OnFailure,
    pub millis: u64,
}

impl HookDone {
    /// Whether the work it belongs to must not go on, or is a failure.
    pub fn aborts(&self) -> bool {
        !self.passed && self.on_failure == OnFailure::Abort
    }
}

/// Runs a hook to its end, or to the end of its time.
pub async fn run(context: &Context, hook: &Hook, told: &Told<'_>) -> HookDone {
    let began = context.clock.now();
    let ended = match tokio::time::timeout(hook.timeout, child(context, hook, told)).await {
        Ok(ended) => ended,
        Err(_) => Err(format!("was killed: it took longer than {} s", hook.timeout.as_secs())),
    };
    let millis = context.clock.now().millis_since(began).max(0) as u64;
    let (passed, outcome) = match ended {
        Ok(()) => (true, "done".to_owned()),
        Err(outcome) => (false, outcome),
    };
    if !passed {
        context.printer.warn(&format!("the hook {} of {} {outcome}", told.hook, told.source));
    }
    HookDone { hook: told.hook, passed, outcome, on_failure: hook.on_failure, millis }
}

async fn child(context: &Context, hook: &Hook, told: &Told<'_>) -> Result<(), String> {
    let mut command = match &hook.run {
        Run::Words(words) => {
            let mut command = Command::new(words.first().map_or("", String::as_str));
            command.args(words.iter().skip(1));
            command
        }
        Run::Line(line) => {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            command
        }
    };
    environment(&mut command, told);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("could not be started: {error}"))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let status = {
        let mut words = std::pin::pin!(async { tokio::join!(listen(out, &mut said), listen(err, &mut complained)) });
        let mut heard_all = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = &mut words, if !heard_all => heard_all = true,
            }
        };
        if !heard_all {
            let _ = tokio::time::timeout(LAST_WORDS, words).await;
        }
        status
    };
    // What it left running on purpose goes on.
    group.0 = None;
    for words in [said, complained] {
        let text = String::from_utf8_lossy(&words).into_owned();
        text.lines().for_each(|line| context.printer.talk(&format!("{}: {line}", told.hook)));
    }
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("failed ({status})")),
        Err(error) => Err(format!("was lost: {error}")),
    }
}

fn environment(command: &mut Command, told: &Told<'_>) {
    let withheld = |name: &str| WITHHELD.iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in std::env::vars_os().filter(|(name, _)| withheld(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.env("BACKSTAY_HOOK", told.hook).env("BACKSTAY_SOURCE", told.source.as_str());
    command.env("BACKSTAY_PATH", told.path).env("BACKSTAY_CONFIG", told.config);
    command.env("BACKSTAY_VERDICT", told.verdict.map_or("", Verdict::word));
    command.env("BACKSTAY_SNAPSHOT", told.snapshot.as_deref().unwrap_or(""));
}

/// Reads to the end and keeps the beginning.
async fn listen(channel: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut channel) = channel else { return };
    let mut piece = vec![0; 4096];
    while let Ok(got @ 1..) = channel.read(&mut piece).await {
        let room = SHOWN_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(piece.get(..got.min(room)).unwrap_or_default());
    }
}

/// The processes of a hook that is not done: none of them outlives this value.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Asks an address again and again, until it answers with success or its time is up.
pub async fn probe(context: &Context, health: &Address) -> HookDone {
    let began = context.clock.now();
    let mut last = "it never answered".to_owned();
    let asked = async {
        loop {
            match get(&health.url, health.deadline).await {
                Ok(()) => return,
                Err(error) => last = error,
            }
            tokio::time::sleep(BETWEEN_PROBES).await;
        }
    };
    let passed = tokio::time::timeout(health.deadline, asked).await.is_ok();
    let millis = context.clock.now().millis_since(began).max(0) as u64;
    let outcome = if passed { "answers".to_owned() } else { format!("does not answer well: {last}") };
    HookDone { hook: "health", passed, outcome, on_failure: OnFailure::Abort, millis }
}

/// Tells an address that a backup begins or how it ended. That it cannot be told is said and no more.
pub async fn ping(context: &Context, ping: Option<&Address>, event: &str) {
    let Some(Address { url, deadline }) = ping else { return };
    let url = format!("{}{event}", url.trim_end_matches('/'));
    if let Err(error) = get(&url, *deadline).await {
        context
            .printer
            .warn(&format!("the ping {} could not be sent: {error}", if event.is_empty() { "ok" } else { event }));
    }
}

async fn get(url: &str, deadline: Duration) -> Result<(), String> {
    let client = reqwest::Client::builder().timeout(deadline).build().map_err(|error| error.to_string())?;
    // The address may hold a token: the words of an error leave it out.
    let answer = client.get(url).send().await.map_err(|error| causes(&error.without_url()))?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("status {}", answer.status())) }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words = format!("{words}: {cause}");
        next = cause.source();
    }
    words
}
