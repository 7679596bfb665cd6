use super::page::Page;
use super::table::{Align, Table};
use super::*;
use backstay_model::{ByteLen, Moment, Verdict};
use jiff::tz::TimeZone;
use std::sync::atomic::{AtomicI64, Ordering};

/// A channel the test keeps hold of.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the channel").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("the channel").clone()).expect("text")
    }
}

struct Refusing(io::ErrorKind);

impl Write for Refusing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn shape(mode: Mode) -> Shape {
    Shape { mode, stdout: Colour::Off, stderr: Colour::Off, stderr_is_terminal: false }
}

fn kept(mode: Mode) -> (Printer, Kept, Kept) {
    let (out, err) = (Kept::default(), Kept::default());
    (Printer::to(shape(mode), Box::new(out.clone()), Box::new(err.clone())), out, err)
}

#[derive(serde::Serialize)]
struct Backed {
    source: &'static str,
    verdict: Verdict,
}

impl View for Backed {
    fn render(&self, page: &mut Page) {
        page.verdict(self.verdict, self.source, "stored and proven");
        page.evidence("snapshot", "abcd1234  at 12:00\x1b[2J");
        let mut table = Table::new([("FILE", Align::Left), ("BYTES", Align::Right)]);
        table.row(["shop.db".to_owned(), "4096".to_owned()]);
        table.row(["é".to_owned(), "12".to_owned()]);
        page.table(&table);
        page.next("backstay restore shop --to copy.db");
    }
}

fn rendered(mode: Mode, verdict: Verdict) -> String {
    let (printer, out, err) = kept(mode);
    printer.show(&Backed { source: "shop", verdict }).expect("shown");
    printer.talk("thinking");
    assert_eq!(err.text().is_empty(), mode != Mode::Human);
    out.text()
}

#[test]
fn the_verdict_comes_first_and_the_next_step_last() {
    insta::assert_snapshot!(rendered(Mode::Human, Verdict::Pass), @r#"
    PASS  shop  stored and proven
      snapshot      abcd1234  at 12:00�[2J
    FILE     BYTES
    shop.db   4096
    é           12
    Next: backstay restore shop --to copy.db
    "#);
}

#[test]
fn quiet_keeps_the_data_and_bad_verdicts() {
    insta::assert_snapshot!(rendered(Mode::Quiet, Verdict::Pass), @r#"
    FILE     BYTES
    shop.db   4096
    é           12
    "#);
    assert!(rendered(Mode::Quiet, Verdict::Fail).starts_with("FAIL  shop  "));
}

#[test]
fn json_is_one_value_and_nothing_else() {
    let text = rendered(Mode::Json, Verdict::Partial);
    let value: serde_json::Value = serde_json::from_str(&text).expect("one JSON value");
    assert_eq!(value, serde_json::json!({ "source": "shop", "verdict": "partial" }));
}

#[test]
fn a_failure_is_words_on_stderr_or_json_on_stdout() {
    let failure = Diagnostic::new(Kind::Conflict, "busy");
    let (printer, out, err) = kept(Mode::Quiet);
    printer.fail(&failure);
    assert_eq!((out.text().as_str(), err.text().as_str()), ("", "error: busy\n"));
    let (printer, out, err) = kept(Mode::Json);
    printer.fail(&failure);
    assert_eq!(err.text(), "");
    let value: serde_json::Value = serde_json::from_str(&out.text()).expect("one JSON value");
    assert_eq!(value["error"]["exit"], 5);
}

#[test]
fn a_reader_that_went_away_is_no_failure_and_a_full_disk_is() {
    let show = |kind| {
        let printer = Printer::to(shape(Mode::Human), Box::new(Refusing(kind)), Box::new(Kept::default()));
        printer.show(&Backed { source: "shop", verdict: Verdict::Pass }).expect("showing never fails");
        printer.finish()
    };
    assert_eq!(show(io::ErrorKind::BrokenPipe), Ok(()));
    assert_eq!(show(io::ErrorKind::StorageFull).expect_err("a failure").kind, Kind::NoSpace);
}

/// A clock the test moves.
struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Moment {
        Moment::from_millis(self.0.load(Ordering::SeqCst)).expect("in range")
    }
}

#[test]
fn progress_is_a_line_every_half_minute() {
    let (printer, out, err) = kept(Mode::Human);
    let clock = Arc::new(Hands(AtomicI64::new(0)));
    let progress = printer.progress(clock.clone(), "backup shop");
    progress.set_total(ByteLen::new(100 << 20));
    for _ in 0..70 {
        clock.0.fetch_add(1000, Ordering::SeqCst);
        progress.advance(ByteLen::new(1 << 20));
    }
    assert_eq!(out.text(), "");
    insta::assert_snapshot!(err.text(), @r#"
    backup shop: 30.0 MiB of 100 MiB, 30 %, 1.00 MiB/s, 1 min 10 s left
    backup shop: 60.0 MiB of 100 MiB, 60 %, 1.00 MiB/s, 40.0 s left
    "#);
}

#[test]
fn progress_is_silent_when_asked_to_be() {
    for mode in [Mode::Quiet, Mode::Json] {
        let (printer, _, err) = kept(mode);
        let clock = Arc::new(Hands(AtomicI64::new(0)));
        let progress = printer.progress(clock.clone(), "backup shop");
        clock.0.fetch_add(60_000, Ordering::SeqCst);
        progress.advance(ByteLen::new(1));
        assert_eq!(err.text(), "");
    }
}

#[test]
fn times_carry_their_zone_and_utc_where_they_decide() {
    let moment: Moment = "2026-11-21T11:00:05Z".parse().expect("a moment");
    let zone = TimeZone::fixed(jiff::tz::offset(2));
    assert_eq!(time::local(moment, &zone), "2026-11-21 13:00:05 +02");
    assert_eq!(time::resolved(moment, &zone), "2026-11-21 13:00:05 +02 (2026-11-21T11:00:05.000Z)");
}
