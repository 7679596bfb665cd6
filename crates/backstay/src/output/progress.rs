//! How far something is: a bar on a terminal, a line every half minute elsewhere, nothing when asked to be quiet.
//!
//! It is driven by whoever does the work and has no thread of its own: work that stands still says nothing new.

use super::{Mode, Printer};
use crate::diagnostics::render::safe;
use backstay_model::moment::human_span;
use backstay_model::{ByteLen, Clock, Moment};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::{Arc, Mutex};

/// How often a line is written where a bar would make no sense.
const LINE_EVERY_MILLIS: i64 = 30_000;

/// Progress in bytes of one piece of work. Shared freely between threads; ends when dropped.
pub struct Progress {
    face: Face,
    clock: Arc<dyn Clock>,
    what: String,
    count: Mutex<Count>,
}

enum Face {
    Silent,
    Bar(ProgressBar),
    Lines(Printer),
}

struct Count {
    done: ByteLen,
    total: Option<ByteLen>,
    begun: Moment,
    last_line: Moment,
}

impl Progress {
    pub(super) fn begin(printer: &Printer, clock: Arc<dyn Clock>, what: &str) -> Self {
        let face = match printer.mode() {
            Mode::Quiet | Mode::Json => Face::Silent,
            Mode::Human if printer.draws_bars() => Face::Bar(bar(what)),
            Mode::Human => Face::Lines(printer.clone()),
        };
        let now = clock.now();
        let count = Mutex::new(Count { done: ByteLen::new(0), total: None, begun: now, last_line: now });
        Self { face, clock, what: what.to_owned(), count }
    }

    pub fn set_total(&self, total: ByteLen) {
        if let Face::Bar(bar) = &self.face {
            bar.set_length(total.get());
        }
        self.on(|count| count.total = Some(total));
    }

    /// More bytes are done.
    pub fn advance(&self, more: ByteLen) {
        if matches!(self.face, Face::Silent) {
            return;
        }
        let now = self.clock.now();
        let line = self.on(|count| {
            count.done = ByteLen::new(count.done.get().saturating_add(more.get()));
            if let Face::Bar(bar) = &self.face {
                bar.set_position(count.done.get());
            }
            let due = now.millis_since(count.last_line) >= LINE_EVERY_MILLIS;
            due.then(|| {
                count.last_line = now;
                count.words(&self.what, now)
            })
        });
        if let (Some(line), Face::Lines(printer)) = (line, &self.face) {
            printer.talk(&line);
        }
    }

    fn on<T>(&self, act: impl FnOnce(&mut Count) -> T) -> T {
        act(&mut self.count.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Count {
    /// `backup shop: 1.20 GiB of 3.40 GiB, 35 %, 61.0 MiB/s, 36 s left`
    fn words(&self, what: &str, now: Moment) -> String {
        let elapsed = u128::try_from(now.millis_since(self.begun)).unwrap_or(0).max(1);
        let rate = u64::try_from(u128::from(self.done.get()) * 1000 / elapsed).unwrap_or(u64::MAX);
        let mut text = format!("{what}: {}", self.done);
        if let Some(total) = self.total.filter(|total| total.get() > 0) {
            let percent = u128::from(self.done.get()) * 100 / u128::from(total.get());
            text.push_str(&format!(" of {total}, {percent} %"));
        }
        text.push_str(&format!(", {}/s", ByteLen::new(rate)));
        let rest = self.total.map(|total| total.get().saturating_sub(self.done.get()));
        if let Some(seconds) = rest.and_then(|rest| rest.checked_div(rate)) {
            let millis = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
            text.push_str(&format!(", {} left", human_span(millis)));
        }
        text
    }
}

fn bar(what: &str) -> ProgressBar {
    let template = "{msg}  [{wide_bar}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(safe(what));
    bar
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Face::Bar(bar) = &self.face {
            bar.finish_and_clear();
        }
    }
}
