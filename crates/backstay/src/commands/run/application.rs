//! The application: started once, given every signal, waited for.

use crate::context::Context;
use crate::diagnostics::Diagnostic;
use backstay_model::Kind;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind, signal};

/// What the application is told of.
const PASSED_ON: [(SignalKind, Signal); 7] = [
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
    (SignalKind::window_change(), Signal::WINCH),
];

pub struct Application {
    child: Child,
    signals: Signals,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Ended {
    /// As a shell says it: its own code, or 128 and the number of the signal that ended it.
    pub exit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

impl Ended {
    fn of(status: ExitStatus) -> Self {
        let signal = status.signal();
        let code = status.code().or_else(|| signal.map(|signal| 128 + signal));
        Self { exit: code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX), signal }
    }

    pub fn words(self) -> String {
        match self.signal {
            None => format!("exit code {}", self.exit),
            Some(signal) => format!("signal {signal}"),
        }
    }
}

impl Application {
    /// Starts it, unless somebody wanted everything to stop before.
    pub fn start(context: &Context, command: &[OsString]) -> Result<Self, Diagnostic> {
        let signals = Signals::listen().map_err(|error| {
            Diagnostic::new(Kind::of_io(&error), "cannot listen for signals")
                .because(error.to_string())
                .hint("Look at the limits of this process with `ulimit -a`.")
        })?;
        context.cancel.hand_over();
        context.cancel.check()?;
        let (program, arguments) = command.split_first().expect("the grammar asks for a command");
        let child = Command::new(program).args(arguments).spawn().map_err(|error| cannot_start(program, &error))?;
        Ok(Self { child, signals })
    }

    /// Waits for its end, and passes on whatever this program is told meanwhile.
    pub async fn serve(&mut self) -> Result<Ended, Diagnostic> {
        loop {
            tokio::select! {
                status = self.child.wait() => {
                    let status = status.map_err(|error| {
                        Diagnostic::new(Kind::of_io(&error), "cannot wait for the application")
                            .because(error.to_string())
                            .hint("Look whether it still runs with `ps`, and stop it by hand.")
                    })?;
                    return Ok(Ended::of(status));
                }
                told = self.signals.next() => self.pass_on(told),
            }
        }
    }

    fn pass_on(&self, told: Signal) {
        // Ctrl-C at a terminal reaches everything in the foreground already.
        if matches!(told, Signal::INT | Signal::QUIT) && is_in_foreground() {
            return;
        }
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended in this moment, which `wait` says.
            let _ = kill_process(pid, told);
        }
    }

    /// Resolves when somebody asks for the second time to stop, after the application has ended.
    pub async fn asked_twice(&mut self, context: &Context) {
        let mut asked = false;
        loop {
            if !matches!(self.signals.next().await, Signal::INT | Signal::QUIT | Signal::TERM) {
                continue;
            }
            if asked {
                return;
            }
            asked = true;
            context.printer.warn("the last commits are being made durable; ask once more to end without them");
        }
    }
}

/// Nothing was started: the usual codes say why.
fn cannot_start(program: &OsString, error: &io::Error) -> Diagnostic {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => Kind::Usage,
        _ => Kind::of_io(error),
    };
    Diagnostic::new(kind, format!("cannot start {}", program.to_string_lossy()))
        .because(error.to_string())
        .hint("Write the application as you would at a prompt, after `--`: `backstay run --db shop.db -- ./server`.")
}

fn is_in_foreground() -> bool {
    let stdin = std::io::stdin();
    rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Every signal that is passed on, as it comes.
struct Signals(Vec<(unix::Signal, Signal)>);

impl Signals {
    fn listen() -> io::Result<Self> {
        let one = |(kind, as_sent)| Ok((signal(kind)?, as_sent));
        PASSED_ON.into_iter().map(one).collect::<io::Result<_>>().map(Self)
    }

    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (stream, as_sent) in &mut self.0 {
                if let std::task::Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return std::task::Poll::Ready(*as_sent);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
