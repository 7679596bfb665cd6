//! Backstay and restic over the same S3 server, on the same database, one after the other in each round.
//!
//! Seconds are taken against the server itself; requests and bytes are counted by a proxy in front of it, in a pass
//! of their own. Each contender does what its user would see done: ours without the proof, which restic has none of,
//! but with the look back at every stored byte that `backup` ends with then.

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

/// One cost per step; none where a contender does not know the step yet.
type Costs = Vec<Option<Cost>>;

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
    for _ in 0..options.rounds {
        let server = S3Server::start();
        timed.push(both(&program, &source, &options.dir, &server.endpoint(), None)?);
    }
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Honoured, None);
    counted.push(both(&program, &source, &options.dir, &wire.endpoint(), Some(&wire))?);
    let gib = std::fs::metadata(&source)?.len() as f64 / f64::from(1 << 30);
    let mut table = Table::new(format!("S3: {} MiB, median of {} rounds", options.megabytes, options.rounds));
    for (at, step) in STEPS.iter().enumerate() {
        let seconds = |pick: fn(&(Costs, Costs)) -> &Costs| -> Option<f64> {
            let all: Option<Vec<f64>> = timed.iter().map(|round| Some(pick(round)[at]?.seconds)).collect();
            all.map(median)
        };
        let (ours, theirs) = (seconds(|round| &round.0), seconds(|round| &round.1));
        let requests = |costs: &Costs| costs[at].map(|cost| cost.traffic);
        for (name, seconds, traffic) in
            [("Backstay", ours, requests(&counted[0].0)), ("restic", theirs, requests(&counted[0].1))]
        {
            let (Some(seconds), Some(traffic)) = (seconds, traffic) else { continue };
            table.figure(&format!("{step}: {name}"), seconds, "s");
            table.figure(&format!("{step}: {name}, requests per GiB"), traffic.requests as f64 / gib, "");
            table.figure(&format!("{step}: {name}, sent"), traffic.sent as f64 / 1e6, "MB");
            table.figure(&format!("{step}: {name}, received"), traffic.received as f64 / 1e6, "MB");
        }
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            table.bound(&format!("{step}: Backstay / restic"), ours / theirs, Bound::Most(0.5));
        }
    }
    Ok(table)
}

/// Each of the two with a copy of its own of the same database.
fn both(
    program: &Path,
    source: &Path,
    dir: &Path,
    endpoint: &str,
    wire: Option<&Adversary>,
) -> Result<(Costs, Costs), Failed> {
    let run = |contender: &dyn Fn(&Path) -> Result<Contender, Failed>| -> Result<Costs, Failed> {
        let work = tempfile::tempdir_in(dir)?;
        std::fs::copy(source, work.path().join("shop.db"))?;
        std::fs::File::open(work.path().join("shop.db"))?.sync_all()?;
        steps(&contender(work.path())?, work.path(), wire)
    };
    let ours = run(&|work| Contender::ours(program, endpoint, work))?;
    let theirs = run(&|work| Contender::restic(endpoint, work))?;
    Ok((ours, theirs))
}

struct Contender {
    program: PathBuf,
    env: Vec<(&'static str, String)>,
    work: PathBuf,
    steps: [Option<Vec<String>>; 4],
}

fn words(text: &str) -> Option<Vec<String>> {
    Some(text.split_whitespace().map(str::to_owned).collect())
}

impl Contender {
    fn ours(program: &Path, endpoint: &str, work: &Path) -> Result<Self, Failed> {
        let env = vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("BACKSTAY_STORE_ENDPOINT", endpoint.to_owned()),
            ("BACKSTAY_STORE_ALLOW_HTTP", "true".to_owned()),
        ];
        let steps = [
            words("backup shop --no-proof"),
            words("backup shop --no-proof"),
            words("restore shop --to restored.db"),
            // Our prune waits a day by design; the step is measured when it can be told not to.
            None,
        ];
        let this = Self { program: program.to_owned(), env, work: work.to_owned(), steps };
        this.call(
            &words(&format!("init --yes --no-backup --source shop=./shop.db --repo s3://{BUCKET}/ours"))
                .unwrap_or_default(),
        )?;
        Ok(this)
    }

    fn restic(endpoint: &str, work: &Path) -> Result<Self, Failed> {
        let env = vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("RESTIC_PASSWORD", "bench".to_owned()),
            ("RESTIC_REPOSITORY", format!("s3:{endpoint}/{BUCKET}/restic")),
            ("RESTIC_CACHE_DIR", work.join("cache").display().to_string()),
        ];
        let steps = [
            words("--quiet backup shop.db"),
            words("--quiet backup shop.db"),
            words("--quiet restore latest --target restored"),
            words("--quiet forget --keep-last 1 --prune"),
        ];
        let this = Self { program: "restic".into(), env, work: work.to_owned(), steps };
        this.call(&["--quiet".to_owned(), "init".to_owned()])?;
        Ok(this)
    }

    fn call(&self, args: &[String]) -> Result<(), Failed> {
        let mut command = Command::new(&self.program);
        command.args(args).envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(&self.work);
        let output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Err(format!("{} {args:?}: {}", self.program.display(), said.concat()).into())
    }
}

fn steps(contender: &Contender, work: &Path, wire: Option<&Adversary>) -> Result<Costs, Failed> {
    let mut costs = Vec::new();
    for (at, step) in contender.steps.iter().enumerate() {
        if at == 1 {
            generate::update_scattered(&work.join("shop.db"), 1)?;
        }
        let Some(step) = step else {
            costs.push(None);
            continue;
        };
        wire.map(Adversary::take_traffic);
        let begun = Instant::now();
        match contender.call(step) {
            // restic finds packs missing in what `s3s-fs` lists; its prune is then left out, and said.
            Err(error) if STEPS.get(at) == Some(&"prune") => {
                eprintln!("without a prune: {error}");
                costs.push(None);
                continue;
            }
            done => done?,
        }
        let seconds = begun.elapsed().as_secs_f64();
        costs.push(Some(Cost { seconds, traffic: wire.map(Adversary::take_traffic).unwrap_or_default() }));
    }
    Ok(costs)
}
