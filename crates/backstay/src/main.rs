//! The only crate with a terminal: arguments, configuration, one file per command, diagnostics, rendering.
//!
//! A table of contents: [`commands`] says what each command does, [`dispatch`] which one runs, and the last lines of
//! [`main`] decide the exit code. Everything ambient (environment, clock, signals, channels) is taken here once and
//! handed down as values. A crash of this process leaves whatever the command's crates promise; it takes no locks.

mod args;
mod cancel;
mod commands;
mod config;
mod confirm;
mod context;
mod diagnostics;
mod hooks;
mod output;
mod passphrase;
mod vault;

use crate::args::{Cli, Command};
use crate::context::{Context, Outcome, OutputFlags};
use crate::diagnostics::{Diagnostic, panic};
use crate::output::{Mode, Printer};
use backstay_model::Kind;
use backstay_store::os::SystemClock;
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let env = config::Env::of_process();
    let flags = OutputFlags { json: cli.global.json, quiet: cli.global.quiet, no_color: cli.global.no_color };
    let printer = Printer::new(context::shape(flags, &env));
    panic::install(printer.stderr_colour());
    let ended = panic::guarded(|| run(cli, env, printer.clone())).unwrap_or_else(|| {
        if printer.mode() == Mode::Json {
            printer.fail(&panic::diagnostic("a panic, described on stderr", "see there"));
        }
        Ok(Kind::Internal.meaning().exit)
    });
    match ended.and_then(|exit| printer.finish().map(|()| exit)) {
        Ok(exit) => exit.into(),
        Err(diagnostic) => {
            printer.fail(&diagnostic);
            diagnostic.exit().into()
        }
    }
}

/// The command, with the runtime around it.
fn run(cli: Cli, env: config::Env, printer: Printer) -> Result<u8, Diagnostic> {
    log_to_stderr(&cli, &env);
    let no_runtime = |error: std::io::Error| {
        Diagnostic::new(Kind::of_io(&error), "cannot start worker threads")
            .because(error.to_string())
            .hint("Look at the limits of this process with `ulimit -a`.")
    };
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // A thousand sources that begin at once have hundreds of threads for a moment, and not for long.
    builder.worker_threads(workers).thread_keep_alive(Duration::from_secs(1)).enable_all();
    let runtime = builder.build().map_err(no_runtime)?;
    let (canceller, cancel) = cancel::pair();
    #[expect(
        clippy::disallowed_methods,
        reason = "signals are heard for as long as the process lives, also while a command blocks"
    )]
    runtime.spawn(cancel::listen(canceller));
    let zone = jiff::tz::TimeZone::system();
    let layers = context::layers(&cli, env)?;
    let context = Context {
        printer,
        clock: Arc::new(SystemClock),
        zone,
        cancel: cancel.clone(),
        layers,
        meters: output::Meters::default(),
    };
    let outcome = runtime.block_on(dispatch(&context, &cli.command));
    // A key command or a blocking read that nobody waits for any more must not hold the exit up.
    runtime.shutdown_background();
    match outcome {
        Ok(done) => Ok(done.exit()),
        // Whatever failed after the wish to stop failed because of it.
        Err(diagnostic) if cancel.is_wanted() => Err(Diagnostic { kind: Kind::Cancelled, ..diagnostic }),
        Err(diagnostic) => Err(diagnostic),
    }
}

/// Which file to read next.
async fn dispatch(context: &Context, command: &Command) -> Outcome {
    match command {
        Command::Config(args) => commands::config::run(context, &args.verb),
        Command::Doctor(_) => commands::doctor::run(context).await,
        Command::Completions(args) => commands::completions::run(context, args),
        Command::Man(args) => commands::man::run(context, args),
        Command::Init(args) => commands::init::run(context, args).await,
        Command::Backup(args) => commands::backup::run(context, args).await,
        Command::Follow(args) => commands::follow::run(context, args).await,
        Command::Run(args) => commands::run::run(context, args).await,
        Command::List(args) => commands::list::run(context, args).await,
        Command::Restore(args) => commands::restore::run(context, args).await,
        Command::Promote(args) => commands::standby::run_promote(context, args),
        Command::Query(args) => commands::query::run(context, args).await,
        Command::Diff(args) => commands::diff::run(context, args).await,
        Command::Log(args) => commands::log::run(context, args).await,
        Command::When(args) => commands::when::run(context, args).await,
        Command::Schedule(args) => {
            let crate::args::ScheduleVerb::Export(args) = &args.verb;
            commands::schedule::run(context, args)
        }
        Command::Maintain(args) => commands::maintain::run(context, args).await,
        Command::Adopt(args) => commands::adopt::run(context, args).await,
        Command::Import(args) => commands::import::run(context, args).await,
        Command::Rescue(args) => commands::rescue::run(context, args).await,
        Command::Status(args) => commands::status::run(context, args).await,
        Command::Retention(args) => commands::retention::run(context, &args.verb).await,
        Command::Show(args) => commands::show::run(context, args).await,
        Command::Check(args) => commands::check::run(context, args).await,
        Command::Scrub(args) => commands::scrub::run(context, args).await,
        Command::Repo(args) => commands::repo::run(context, &args.verb).await,
        Command::Source(args) => commands::source::run(context, &args.verb).await,
        Command::Audit(args) => commands::audit::run(context, args).await,
        Command::Demo(args) => commands::demo::run(context, args).await,
    }
}

/// Help and version are answers; everything else is a usage error in the form that was asked for.
fn misused(error: &clap::Error) -> ExitCode {
    let said = |flag: &str| std::env::args_os().any(|word| word == flag);
    // Whether it was read or not: a reader that went away wanted no more of it.
    if error.use_stderr() && said("--json") {
        let text = error.render().to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let diagnostic = Diagnostic::new(Kind::Usage, what).hint("Run the command with `--help`.");
        let _ = writeln!(std::io::stdout(), "{:#}", diagnostic.json());
    } else if error.use_stderr() && said("--no-color") {
        let _ = write!(std::io::stderr(), "{}", error.render());
    } else {
        let _ = error.print();
    }
    if error.use_stderr() { Kind::Usage.meaning().exit.into() } else { ExitCode::SUCCESS }
}

fn log_to_stderr(cli: &Cli, env: &config::Env) {
    let level = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let filter = env.get("BACKSTAY_LOG").unwrap_or(level);
    let logger = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(std::io::stderr);
    // A second logger would be refused, and there is none: this runs once.
    let _ = logger.with_ansi(false).try_init();
}
