//! `backstay schedule export`: units for systemd, or lines for cron, that run backups as the configuration says.

use crate::args;
use crate::args::{Scheduler, TimeOfDay};
use crate::config::Settings;
use crate::config::settings::RepositoryLocation;
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::{Page, View};
use backstay_model::Kind;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where the programs a job calls are looked for: cron gives little more than /usr/bin.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Places that a private /tmp would hide.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

pub fn run(context: &Context, args: &args::Export) -> Outcome {
    let settings = context.settings()?;
    let program = std::env::current_exe().map_err(|error| {
        Diagnostic::new(Kind::of_io(&error), "the path of this program cannot be found")
            .because(error.to_string())
            .hint("Run it by its full path.")
    })?;
    let job = Job { program: &program, settings: &settings, at: args.at, user: args.user.as_deref() };
    let files = match args.scheduler {
        Scheduler::Systemd => vec![
            File { name: "/etc/systemd/system/backstay.service".into(), text: job.service() },
            File { name: "/etc/systemd/system/backstay.timer".into(), text: job.timer() },
        ],
        Scheduler::Cron => vec![File { name: "crontab".into(), text: job.crontab() }],
    };
    context.printer.show(&ScheduleView { files })?;
    Ok(Done::Plainly)
}

struct Job<'a> {
    program: &'a Path,
    settings: &'a Settings,
    at: TimeOfDay,
    user: Option<&'a str>,
}

impl Job<'_> {
    fn service(&self) -> String {
        let exec = format!("{} --config {} backup", unit_word(self.program), unit_word(&self.settings.file));
        let user = self.user.map_or_else(String::new, |user| format!("User={user}\n"));
        let writable: Vec<String> = self.writable().iter().map(|path| unit_word(path)).collect();
        let is_temporary = self.writable().iter().any(|path| TEMPORARY.iter().any(|place| path.starts_with(place)));
        let private_tmp = if is_temporary { "no" } else { "yes" };
        let file = self.settings.file.display().to_string().replace('%', "%%");
        format!(
            "[Unit]\nDescription=Back up the databases in {file}\nWants=network-online.target\n\
             After=network-online.target\n\n\
             [Service]\nType=oneshot\n{user}ExecStart={exec}\nTimeoutStartSec=12h\nNice=10\n\
             IOSchedulingClass=idle\nUMask=0077\nNoNewPrivileges=yes\nProtectSystem=strict\n\
             ProtectHome=read-only\nReadWritePaths={}\nPrivateTmp={private_tmp}\nPrivateDevices=yes\n\
             ProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectControlGroups=yes\n\
             RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\nRestrictRealtime=yes\nLockPersonality=yes\n",
            writable.join(" ")
        )
    }

    fn timer(&self) -> String {
        format!(
            "[Unit]\nDescription=Back up every night\n\n[Timer]\nOnCalendar=*-*-* {:02}:{:02}:00\n\
             RandomizedDelaySec=10m\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n",
            self.at.hour, self.at.minute
        )
    }

    fn crontab(&self) -> String {
        let lock = self.settings.state_dir.join("cron.lock");
        let command = |verb: &str| {
            let words = [self.program, Path::new("--config"), &self.settings.file].map(cron_word).join(" ");
            format!("{words} --quiet {verb}")
        };
        // A run that finds another one at work ends quietly; only failures are mailed.
        let backup = format!(
            "mkdir -p {} && flock -n -E 0 {} {}",
            cron_word(&self.settings.state_dir),
            cron_word(&lock),
            command("backup")
        );
        let TimeOfDay { hour, minute } = self.at;
        let later = (hour + 7) % 24;
        format!(
            "SHELL=/bin/sh\nPATH={PATH}\n{minute} {hour} * * *  {backup}\n{minute} {later} * * *  {}\n",
            command("status")
        )
    }

    /// Folders a backup writes to: the state, a repository on this machine, and the databases' own, where
    /// SQLite keeps its log and locks. Only folders that are there can be named.
    fn writable(&self) -> Vec<PathBuf> {
        let mut paths = BTreeSet::from([self.settings.state_dir.clone()]);
        if let RepositoryLocation::Folder(folder) = &self.settings.repository {
            paths.insert(folder.clone());
        }
        for source in self.settings.sources.values() {
            paths.extend(source.path.parent().map(Path::to_owned));
            paths.extend(source.policy.proof.temp_dir.clone());
        }
        paths.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)).collect()
    }
}

/// A word of a unit file: quoted, with the characters doubled that systemd reads as something else.
fn unit_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    if plain { text } else { format!("\"{escaped}\"") }
}

/// A word of a command in a crontab, where a per cent sign ends the line.
fn cron_word(path: impl AsRef<Path>) -> String {
    let text = path.as_ref().display().to_string();
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let quoted = if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) };
    quoted.replace('%', "\\%")
}

#[derive(serde::Serialize)]
pub struct ScheduleView {
    pub files: Vec<File>,
}

#[derive(serde::Serialize)]
pub struct File {
    pub name: String,
    pub text: String,
}

impl View for ScheduleView {
    fn render(&self, page: &mut Page) {
        for file in &self.files {
            page.line(&format!("# {}", file.name));
            file.text.lines().for_each(|line| page.line(line));
        }
    }
}
