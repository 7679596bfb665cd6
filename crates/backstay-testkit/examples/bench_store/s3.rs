//! Backstay and restic over the same S3 server, on the same database, one after the other in each round.
//!
//! Seconds are taken against the server itself; requests and bytes are counted by a proxy in front of it, in a pass
//! of their own. Prune goes through that proxy for both, in every pass: `s3s-fs` shows restic no pack otherwise.
//!
//! Each contender does what its user would see done. Ours proves each backup by restoring it, which restic has none
//! of; its time is taken off, so that a backup ends when its manifest is durable. Our restore is durable and compared
//! with what was captured when it ends, restic's is neither. Prune leaves one snapshot of two, at once.
//!
//! After our restore a third contender does the least that a restore can: it fetches the same objects and writes and
//! syncs a file of the same size, and nothing else. What it takes of restic's time nobody goes below on that machine.

use crate::report::{Bound, Table, median};
use crate::{Failed, Options, floor, generate};
use backstay_testkit::s3_adversary::{Adversary, Conditions, Traffic};
use backstay_testkit::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The steps every contender takes, in this order.
const STEPS: [&str; 4] = ["backup", "incremental", RESTORE, "prune"];
const RESTORE: &str = "restore";
/// Where our objects lie in the server's folder.
const OURS: &str = "ours";

#[derive(Clone, Copy, Default)]
struct Cost {
    seconds: f64,
    traffic: Traffic,
}

/// One cost per step.
type Costs = Vec<Cost>;

/// What each took of one round.
struct Round {
    ours: Costs,
    theirs: Costs,
    floor: floor::Floor,
}

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
        let costs = both(&program, &source, &options.dir, Wires { direct, wire: &wire, open: &lister })?;
        if counts { counted.push(costs) } else { timed.push(costs) }
    }
    let gib = std::fs::metadata(&source)?.len() as f64 / f64::from(1 << 30);
    let mut table = Table::new(format!("S3: {} MiB, median of {} rounds", options.megabytes, options.rounds));
    for (at, step) in STEPS.iter().enumerate() {
        let seconds =
            |pick: fn(&Round) -> &Costs| -> f64 { median(timed.iter().map(|round| pick(round)[at].seconds).collect()) };
        let (ours, theirs) = (seconds(|round| &round.ours), seconds(|round| &round.theirs));
        for (name, seconds, traffic) in
            [("Backstay", ours, counted[0].ours[at].traffic), ("restic", theirs, counted[0].theirs[at].traffic)]
        {
            table.figure(&format!("{step}: {name}"), seconds, "s");
            table.figure(&format!("{step}: {name}, requests per GiB"), traffic.requests as f64 / gib, "");
            table.figure(&format!("{step}: {name}, sent"), traffic.sent as f64 / 1e6, "MB");
            table.figure(&format!("{step}: {name}, received"), traffic.received as f64 / 1e6, "MB");
        }
        table.bound(&format!("{step}: Backstay / restic"), ours / theirs, Bound::Most(0.5));
        if *step == RESTORE {
            let least = median(timed.iter().map(|round| round.floor.seconds).collect());
            table.figure("restore: fetch and write alone", least, "s");
            table.figure("restore: fetch and write alone, received", timed[0].floor.received as f64 / 1e6, "MB");
            table.figure("restore: Backstay / fetch and write alone", ours / least, "");
            table.figure("restore: fetch and write alone / restic", least / theirs, "");
        }
    }
    Ok(table)
}

/// How the server is reached.
struct Wires<'a> {
    direct: String,
    wire: &'a Adversary,
    /// Another server over the same objects, which asks for no signature.
    open: &'a S3Server,
}

/// Each of the two with a copy of its own of the same database.
fn both(program: &Path, source: &Path, dir: &Path, wires: Wires<'_>) -> Result<Round, Failed> {
    let fresh = || -> Result<tempfile::TempDir, Failed> {
        let work = tempfile::tempdir_in(dir)?;
        std::fs::copy(source, work.path().join("shop.db"))?;
        std::fs::File::open(work.path().join("shop.db"))?.sync_all()?;
        Ok(work)
    };
    let work = fresh()?;
    let contender = Contender::ours(program, &wires.direct, work.path())?;
    let mut floor = None;
    let ours = steps(&contender, work.path(), &wires, |step| {
        if step == RESTORE {
            floor = Some(floor_of(work.path(), &wires)?);
        }
        Ok(())
    })?;
    drop(work);
    let work = fresh()?;
    let theirs = steps(&Contender::restic(&wires.direct, work.path())?, work.path(), &wires, |_| Ok(()))?;
    Ok(Round { ours, theirs, floor: floor.expect("a restore is one of the steps") })
}

/// What the restore that was just done takes at least.
fn floor_of(work: &Path, wires: &Wires<'_>) -> Result<floor::Floor, Failed> {
    let len = std::fs::metadata(work.join("restored.db"))?.len();
    let prefix = format!("{BUCKET}/{OURS}");
    floor::measure(wires.open.address(), (wires.open.folder(), &prefix), &work.join("floor"), len)
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
        let init = format!("init --yes --no-backup --source shop=./shop.db --repo s3://{BUCKET}/{OURS}");
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

/// Takes every step, and calls `after` with its name when it is done.
fn steps(
    contender: &Contender,
    work: &Path,
    wires: &Wires<'_>,
    mut after: impl FnMut(&str) -> Result<(), Failed>,
) -> Result<Costs, Failed> {
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
        after(step)?;
    }
    Ok(costs)
}
