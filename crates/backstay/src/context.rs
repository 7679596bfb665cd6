//! What every command gets: the way out, the clock, the wish to stop, and the layers of the configuration.
//!
//! Made once by `main` from the real world; a test makes its own.

use crate::args::Cli;
use crate::cancel::Cancel;
use crate::config::{Env, FlagSetting, Layers, Settings};
use crate::diagnostics::Diagnostic;
use crate::diagnostics::render::Colour;
use crate::output::{Meters, Mode, Printer, Shape};
use backstay_model::{Clock, Moment, Verdict};
use jiff::tz::TimeZone;
use std::io::IsTerminal;
use std::sync::Arc;

/// How a command ended that did not fail to reach its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It has no verdict; it simply did what was asked.
    Plainly,
    With(Verdict),
    /// What it ran for somebody decides.
    Exit(u8),
}

impl Done {
    pub fn exit(self) -> u8 {
        match self {
            Done::Plainly => 0,
            Done::With(verdict) => verdict.exit(),
            Done::Exit(exit) => exit,
        }
    }
}

/// What a command returns.
pub type Outcome = Result<Done, Diagnostic>;

pub struct Context {
    pub printer: Printer,
    pub clock: Arc<dyn Clock>,
    /// The zone of the person at the terminal.
    pub zone: TimeZone,
    pub cancel: Cancel,
    pub layers: Layers,
    /// Counts what this run asks of stores.
    pub meters: Meters,
}

impl Context {
    pub fn settings(&self) -> Result<Settings, Diagnostic> {
        let settings = self.layers.load()?;
        for line in &settings.passed_over {
            self.printer.warn(&format!("NOT A SOURCE: {line}"));
        }
        Ok(settings)
    }

    pub fn env(&self) -> &Env {
        &self.layers.env
    }

    /// Reads a time a person wrote.
    pub fn read_time(&self, text: &str) -> Result<Moment, Diagnostic> {
        Moment::read(text, self.clock.now(), &self.zone).map_err(|bad| {
            Diagnostic::new(backstay_model::Kind::Usage, bad.to_string())
                .hint("Say it again after `--at`, in quotes when it has a space.")
        })
    }
}

/// How to write, from the flags and the two channels.
pub fn shape(flags: OutputFlags, env: &Env) -> Shape {
    let wanted = colours_allowed(flags, env);
    let colour = |terminal: bool| if terminal && wanted { Colour::On } else { Colour::Off };
    let mode = match (flags.json, flags.quiet) {
        (true, _) => Mode::Json,
        (false, true) => Mode::Quiet,
        (false, false) => Mode::Human,
    };
    let stderr_is_terminal = std::io::stderr().is_terminal();
    let (stdout, stderr) = (colour(std::io::stdout().is_terminal()), colour(stderr_is_terminal));
    Shape { mode, stdout, stderr, stderr_is_terminal }
}

/// `NO_COLOR` counts when it is set to anything but nothing, as its convention says.
fn colours_allowed(flags: OutputFlags, env: &Env) -> bool {
    !flags.no_color && env.get("NO_COLOR").is_none_or(str::is_empty) && env.get("TERM") != Some("dumb")
}

/// The flags that decide how output looks.
#[derive(Debug, Clone, Copy)]
pub struct OutputFlags {
    pub json: bool,
    pub quiet: bool,
    pub no_color: bool,
}

/// The layers a command line asks for.
pub fn layers(cli: &Cli, env: Env) -> Result<Layers, Diagnostic> {
    let working_dir = std::env::current_dir().map_err(|error| {
        Diagnostic::new(backstay_model::Kind::of_io(&error), "the working directory cannot be found")
            .because(error.to_string())
            .hint("Change to a folder that exists with `cd`.")
    })?;
    let mut flags = cli.command.flag_settings();
    if let Some(dir) = &cli.global.state_dir {
        flags.push(FlagSetting { key: "state_dir", value: dir.display().to_string(), flag: "--state-dir" });
    }
    Ok(Layers { file: cli.global.config.clone(), working_dir, env, flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_when_anyone_asks() {
        let flags = |no_color| OutputFlags { json: false, quiet: false, no_color };
        assert!(colours_allowed(flags(false), &Env::from([("NO_COLOR", ""), ("TERM", "xterm")])));
        assert!(!colours_allowed(flags(true), &Env::default()));
        assert!(!colours_allowed(flags(false), &Env::from([("NO_COLOR", "1")])));
        assert!(!colours_allowed(flags(false), &Env::from([("TERM", "dumb")])));
    }
}
