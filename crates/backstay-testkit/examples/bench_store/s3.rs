//! Backstay and restic over the same S3 server, on the same database, one after the other in each round.
//!
//! Seconds are taken against the server itself; requests and bytes are counted by a proxy in front of it, in a pass
//! of their own. Prune goes through that proxy for both, in every pass: `s3s-fs` shows restic no pack otherwise.
//!
//! Each contender does what its user would see done. Ours proves each backup by restoring it, which restic has none
//! of; its time is taken off, so that a backup ends when its manifest is durable. Our restore is durable and compared
//! with what was captured when it ends, restic's is neither. Prune leaves one snapshot of two, at once.

use crate::report::{Bound, Table, median};
use crate::{Failed, Options, generate};
use backstay_testkit::s3_adversary::{Adversary, Conditions, Traffic};
use backstay_testkit::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The steps every contender takes, in this order.
const STEPS: [&str; 4] = ["backup", "incremental", "restore", "prune"];

#[derive(Clone, Copy, Default)]
struct Cost {
    seconds: f64,
    traffic: Traffic,
}

/// One cost per step.
type Costs = Vec<Cost>;

pub async fn measure(options: &Options) -> Result<Table, Failed> {
    std::fs::create_dir_all(&options.dir)?;
    let program = std::env::current_exe()?.with_file_name("../backstay");
    if !program.exists() {
        return Err("no release binary: `cargo build --release --package backstay`".into());
    }
    let source = options.dir.join(format!("s3-{}.db", options.megabytes));
    if !source.exists() {
        generate::database(&source, options.megabytes << 20, generate::Kind::Text)?;
    }
    let (mut timed, mut counted) = (Vec::new(), Vec::new());
    for counts in std::iter::repeat_n(false, options.rounds).chain([true]) {
        let server = S3Server::start();
        let lister = server.open_beside();
        let wire = Adversary::start(&server, Conditions::Honoured, None);
        wire.mend_listings(&lister);
        let direct = if counts { wire.endpoint() } else { server.endpoint() };
        let costs = both(&program, &source, &options.dir, Wires { direct, wire: &wire })?;
        if counts { counted.push(costs) } else { timed.push(costs) }
    }
    let gib = std::fs::metadata(&source)?.len() as f64 / f64::from(1 << 30);
    let mut table = Table::new(format!("S3: {} MiB, median of {} rounds", options.megabytes, options.rounds));
    for (at, step) in STEPS.iter().enumerate() {
        let seconds = |pick: fn(&(Costs, Costs)) -> &Costs| -> f64 {
            median(timed.iter().map(|round| pick(round)[at].seconds).collect())
        };
        let (ours, theirs) = (seconds(|round| &round.0), seconds(|round| &round.1));
        for (name, seconds, traffic) in
            [("Backstay", ours, counted[0].0[at].traffic), ("restic", theirs, counted[0].1[at].traffic)]
        {
            table.figure(&format!("{step}: {name}"), seconds, "s");
            table.figure(&format!("{step}: {name}, requests per GiB"), traffic.requests as f64 / gib, "");
            table.figure(&format!("{step}: {name}, sent"), traffic.sent as f64 / 1e6, "MB");
            table.figure(&format!("{step}: {name}, received"), traffic.received as f64 / 1e6, "MB");
        }
        table.bound(&format!("{step}: Backstay / restic"), ours / theirs, Bound::Most(0.5));
    }
    Ok(table)
}

/// How the server is reached.
struct Wires<'a> {
    direct: String,
    wire: &'a Adversary,
}

/// Each of the two with a copy of its own of the same database.
fn both(program: &Path, source: &Path, dir: &Path, wires: Wires<'_>) -> Result<(Costs, Costs), Failed> {
    let run = |contender: &dyn Fn(&Path) -> Result<Contender, Failed>| -> Result<Costs, Failed> {
        let work = tempfile::tempdir_in(dir)?;
        std::fs::copy(source, work.path().join("shop.db"))?;
        std::fs::File::open(work.path().join("shop.db"))?.sync_all()?;
        steps(&contender(work.path())?, work.path(), &wires)
    };
    let ours = run(&|work| Contender::ours(program, &wires.direct, work))?;
    let theirs = run(&|work| Contender::restic(&wires.direct, work))?;
    Ok((ours, theirs))
}

struct Contender {
    program: PathBuf,
    env: Vec<(&'static str, String)>,
    /// Where a setting names the server, and what stands around its address.
    server: (&'static str, &'static str, String),
    work: PathBuf,
    steps: [Vec<String>; 4],
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Contender {
    fn ours(program: &Path, endpoint: &str, work: &Path) -> Result<Self, Failed> {
        let env = vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("BACKSTAY_STORE_ALLOW_HTTP", "true".to_owned()),
        ];
        let steps = [
            words("backup shop --json"),
            words("backup shop --json"),
            words("restore shop --to restored.db --json"),
            words("retention apply shop --grace 0 --confirm shop --json"),
        ];
        let server = ("BACKSTAY_STORE_ENDPOINT", "", String::new());
        let this = Self { program: program.to_owned(), env, server, work: work.to_owned(), steps };
        let init = format!("init --yes --no-backup --source shop=./shop.db --repo s3://{BUCKET}/ours");
        this.call(&words(&init), endpoint)?;
        let file = work.join("backstay.toml");
        let config = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("{config}\n[retention]\nlast = 1\n"))?;
        Ok(this)
    }

    fn restic(endpoint: &str, work: &Path) -> Result<Self, Failed> {
        let env = vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("RESTIC_PASSWORD", "bench".to_owned()),
            ("RESTIC_CACHE_DIR", work.join("cache").display().to_string()),
        ];
        let steps = [
            words("--quiet backup shop.db"),
            words("--quiet backup shop.db"),
            words("--quiet restore latest --target restored"),
            words("--quiet forget --keep-last 1 --prune"),
        ];
        let server = ("RESTIC_REPOSITORY", "s3:", format!("/{BUCKET}/restic"));
        let this = Self { program: "restic".into(), env, server, work: work.to_owned(), steps };
        this.call(&words("--quiet init"), endpoint)?;
        Ok(this)
    }

    /// Runs it, and says how long a proof took that was part of it.
    fn call(&self, args: &[String], endpoint: &str) -> Result<f64, Failed> {
        let mut command = Command::new(&self.program);
        let (name, before, after) = &self.server;
        command.args(args).envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(&self.work);
        let output = command.env(name, format!("{before}{endpoint}{after}")).stdin(Stdio::null()).output()?;
        if output.status.success() {
            let view: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let millis = view.pointer("/sources/0/proof/millis").and_then(serde_json::Value::as_f64);
            return Ok(millis.unwrap_or_default() / 1e3);
        }
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Err(format!("{} {args:?}: {}", self.program.display(), said.concat()).into())
    }
}

fn steps(contender: &Contender, work: &Path, wires: &Wires<'_>) -> Result<Costs, Failed> {
    let mut costs = Vec::new();
    for (at, (args, step)) in contender.steps.iter().zip(STEPS).enumerate() {
        if at == 1 {
            generate::update_scattered(&work.join("shop.db"), 1)?;
        }
        let endpoint = if step == "prune" { wires.wire.endpoint() } else { wires.direct.clone() };
        wires.wire.take_traffic();
        let begun = Instant::now();
        let proof = contender.call(args, &endpoint)?;
        let seconds = begun.elapsed().as_secs_f64() - proof;
        costs.push(Cost { seconds, traffic: wires.wire.take_traffic() });
    }
    Ok(costs)
}
