//! The grammar of `schedule`.

use clap::{Args, Subcommand};
use std::str::FromStr;

/// Have backups run by themselves
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Example:\n  backstay schedule export systemd")]
pub struct Schedule {
    #[command(subcommand)]
    pub verb: ScheduleVerb,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum ScheduleVerb {
    /// Print units for systemd, or lines for cron
    #[command(after_help = "Examples:\n  backstay schedule export systemd --user shop\n  \
        backstay schedule export cron --at 03:30 | crontab -")]
    Export(Export),
}

#[derive(Debug, Args)]
pub struct Export {
    /// For which
    #[arg(value_name = "systemd|cron")]
    pub scheduler: Scheduler,
    /// When, every day, by the clock of the machine
    #[arg(long, value_name = "HH:MM", default_value = "02:00")]
    pub at: TimeOfDay,
    /// The user the service runs as; for systemd
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scheduler {
    Systemd,
    Cron,
}

/// `02:00`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOfDay {
    pub hour: u8,
    pub minute: u8,
}

impl FromStr for TimeOfDay {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(hour, minute)| Some((hour.parse().ok()?, minute.parse().ok()?)));
        match parts {
            Some((hour @ 0..24, minute @ 0..60)) => Ok(Self { hour, minute }),
            _ => Err("write hours and minutes such as 02:00".to_owned()),
        }
    }
}
