//! `backstay query`: one question to a moment of the past, or a shell for several.

use super::past::{self, MomentView};
use crate::args::{self, MomentWord};
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use crate::output::table::Align;
use crate::output::{Page, Table, Traffic, View, counted};
use crate::vault;
use backstay_model::{Kind, Verdict};
use backstay_ops::env::blocking;
use backstay_ops::query::{Asker, Past, Stop};
use backstay_sqlite::lazy::{Asked, Go, Row, Session, Value};
use std::io::{BufRead, IsTerminal, Write};

/// Bytes of CSV written at a time.
const CSV_BATCH: usize = 64 << 10;

pub async fn run(context: &Context, args: &args::Query) -> Outcome {
    let (word, sql) = words(args)?;
    let settings = context.settings()?.on_copy(args.reading.from_copy.as_ref())?;
    let source = settings.source(&args.source)?;
    let target = past::target(context, &args.moment, word)?;
    let asked = vault::open_to_ask(context, &settings, (&source.name, past::keep(&args.reading))).await?;
    let asker = Asker::new(&asked.vault, past::reading(&args.reading));
    asker.stop().within(args.reading.within.as_ref().map(|age| age.span));
    let past = asker.open(&source.name, &target).await?;
    context.printer.talk(&past::said(&past.facts, &context.zone));
    past::warn(context, &past.facts);
    if args.pages {
        return blocking(|| super::pages::serve(&past));
    }
    let asking = Asking { context, args, past: &past, stop: asker.stop() };
    match sql {
        None => shell(&asking).await,
        Some(sql) => {
            let outcome = blocking(|| asking.once(&sql));
            asked.leave_trail();
            outcome
        }
    }
}

/// The moment and the question among the words; which is which follows from their number.
fn words(args: &args::Query) -> Result<(Option<MomentWord>, Option<String>), Diagnostic> {
    let usage = |what: &str| Diagnostic::new(Kind::Usage, what).hint("Run `backstay query --help` for examples.");
    let point = |word: &String| {
        let named = args.moment.at.is_some() || args.moment.tx.is_some() || args.moment.snapshot.is_some();
        match word.parse::<args::Point>() {
            _ if named => Err(usage("the moment is named twice")),
            Ok(point) => Ok(Some(MomentWord::Point(point))),
            Err(problem) => Err(usage(&format!("{word:?} is no restore point")).because(problem)),
        }
    };
    match (args.words.as_slice(), args.shell || args.pages) {
        ([], true) => Ok((None, None)),
        ([word], true) => Ok((point(word)?, None)),
        ([sql], false) => Ok((None, Some(sql.clone()))),
        ([word, sql], false) => Ok((point(word)?, Some(sql.clone()))),
        ([], false) => Err(usage("there is no question").hint("Ask one SELECT, or use `--shell`.")),
        _ => Err(usage("too many words")),
    }
}

struct Asking<'a> {
    context: &'a Context,
    args: &'a args::Query,
    past: &'a Past,
    stop: &'a Stop,
}

impl Asking<'_> {
    fn once(&self, sql: &str) -> Outcome {
        let session = self.past.session()?;
        if self.args.csv {
            self.csv(&session, sql)?;
            return Ok(Done::Plainly);
        }
        let (asked, rows) = self.rows(&session, sql)?;
        let view = QueryView {
            source: self.past.facts.source.to_string(),
            moment: MomentView::of(&self.past.facts),
            columns: asked.columns.clone(),
            rows: rows.iter().map(|row| row.iter().map(past::json).collect()).collect(),
            more: asked.more,
            store: self.context.meters.read(),
            shown: table(&asked, &rows),
        };
        self.context.printer.show(&view)?;
        Ok(Done::Plainly)
    }

    fn stopped(&self) -> Go {
        if self.stop.is_over() { Go::Stop } else { Go::On }
    }

    fn rows(&self, session: &Session, sql: &str) -> Result<(Asked, Vec<Row>), Diagnostic> {
        let mut rows = Vec::new();
        let asked = session.ask(sql, &[], &|| self.stopped(), &mut |_, row| {
            if rows.len() as u64 >= self.args.limit {
                return Go::Stop;
            }
            rows.push(row);
            Go::On
        });
        asked.map(|asked| (asked, rows)).map_err(|error| self.stop.said(error).into())
    }

    fn csv(&self, session: &Session, sql: &str) -> Result<(), Diagnostic> {
        let mut text = String::new();
        let mut has_heading = false;
        let asked = session.ask(sql, &[], &|| self.stopped(), &mut |columns, row| {
            if !has_heading {
                text.push_str(&past::csv(columns.iter().cloned()));
                has_heading = true;
            }
            text.push_str(&past::csv(row.iter().map(past::csv_cell)));
            if text.len() >= CSV_BATCH {
                self.context.printer.data(&std::mem::take(&mut text));
            }
            self.stopped()
        });
        let asked = asked.map_err(|error| self.stop.said(error))?;
        if !has_heading {
            text.push_str(&past::csv(asked.columns.into_iter()));
        }
        self.context.printer.data(&text);
        Ok(())
    }

    /// One line of the shell that is no SQL.
    fn command(&self, session: &Session, line: &str) -> Result<bool, Diagnostic> {
        let mut words = line.split_whitespace();
        let (word, what) = (words.next().unwrap_or_default(), words.next());
        let lines = match word {
            ".quit" | ".exit" => return Ok(false),
            ".tables" => session.tables().map_err(|error| self.stop.said(error))?,
            ".schema" => {
                let schema = session.schema(what).map_err(|error| self.stop.said(error))?;
                schema.into_iter().map(|sql| sql + ";").collect()
            }
            ".help" => HELP.map(str::to_owned).to_vec(),
            _ => return Err(Diagnostic::new(Kind::Usage, format!("there is no {word}")).hint("Type `.help`.")),
        };
        let text: String = lines.iter().map(|line| crate::diagnostics::render::safe(line) + "\n").collect();
        self.context.printer.data(&text);
        Ok(true)
    }

    fn statement(&self, session: &Session, sql: &str) -> Result<(), Diagnostic> {
        self.stop.within(self.args.reading.within.as_ref().map(|age| age.span));
        if self.args.csv {
            return self.csv(session, sql);
        }
        let (asked, rows) = self.rows(session, sql)?;
        let text = table(&asked, &rows).render(crate::diagnostics::render::Colour::Off);
        self.context.printer.data(&text);
        if asked.more {
            self.context.printer.talk(&format!("(there are more than {})", counted(self.args.limit, "row")));
        }
        Ok(())
    }
}

const HELP: [&str; 4] = [
    ".tables         the tables and views",
    ".schema TABLE   the statements that make it; all without a name",
    ".quit           leave (so does the end of the input)",
    "SELECT ... ;    a question; it may take several lines",
];

/// Reads lines until they end. On a terminal a failed question is said and the next is read; a script ends.
async fn shell(asking: &Asking<'_>) -> Outcome {
    let terminal = std::io::stdin().is_terminal();
    let session = blocking(|| asking.past.session())?;
    let mut waiting = String::new();
    loop {
        if terminal {
            let prompt = if waiting.is_empty() { "past> " } else { " ...> " };
            let _ = std::io::stderr().write_all(prompt.as_bytes());
        }
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|read| (read, line))
        });
        let unreadable = |cause: String| Diagnostic::new(Kind::Usage, "the next line cannot be read").because(cause);
        let line = asking.context.cancel.or(read).await?.map_err(|error| unreadable(error.to_string()))?;
        let (read, line) = line.map_err(|error| unreadable(error.to_string()))?;
        let outcome = blocking(|| take(asking, &session, &mut waiting, (&line, read == 0)));
        match outcome {
            Ok(true) => {}
            Ok(false) => return Ok(Done::Plainly),
            Err(diagnostic) if terminal && diagnostic.kind != Kind::Cancelled => {
                waiting.clear();
                asking.context.printer.fail(&diagnostic);
            }
            Err(diagnostic) => return Err(diagnostic),
        }
    }
}

/// Takes a line; says whether there is more to read.
fn take(
    asking: &Asking<'_>,
    session: &Session,
    waiting: &mut String,
    (line, is_end): (&str, bool),
) -> Result<bool, Diagnostic> {
    if waiting.trim().is_empty() && line.trim_start().starts_with('.') {
        return asking.command(session, line.trim());
    }
    waiting.push_str(line);
    let is_whole = waiting.trim_end().ends_with(';') || is_end;
    if is_whole && !waiting.trim().is_empty() {
        asking.statement(session, &std::mem::take(waiting))?;
    }
    Ok(!is_end)
}

/// Numbers stand at the right, as long as a column has nothing else.
fn table(asked: &Asked, rows: &[Row]) -> Table {
    let align = |at: usize| {
        let is_number = |row: &Row| matches!(row.get(at), Some(Value::Integer(_) | Value::Real(_) | Value::Null));
        if !rows.is_empty() && rows.iter().all(is_number) { Align::Right } else { Align::Left }
    };
    let columns = asked.columns.iter().enumerate().map(|(at, name)| (name.clone(), align(at)));
    let mut table = Table::of(columns.collect());
    for row in rows {
        table.push(&row.iter().map(|value| past::shown(value).replace('\n', "\u{21b5}")).collect::<Vec<_>>());
    }
    table
}

#[derive(serde::Serialize)]
pub struct QueryView {
    pub source: String,
    pub moment: MomentView,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<serde_json::Value>>,
    /// There are more rows than are shown.
    pub more: bool,
    /// What was asked of the repository's store.
    pub store: Traffic,
    #[serde(skip)]
    shown: Table,
}

impl View for QueryView {
    fn render(&self, page: &mut Page) {
        page.table(&self.shown);
        if self.more {
            page.verdict(
                Verdict::Partial,
                "",
                &format!("only the first {}; see `--limit`", counted(self.rows.len(), "row")),
            );
        }
    }
}
