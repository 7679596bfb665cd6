//! What a status says of following: where it stands in time and commits, and whether anybody is doing it.

use super::follow::alarm_words;
use crate::diagnostics::Diagnostic;
use crate::output::{Page, counted, time};
use backstay_model::moment::human_span;
use backstay_model::{ByteLen, Moment, SourceName, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::follow::Mode;
use backstay_ops::follow::account::{Account, SILENT_AFTER_MILLIS};
use jiff::tz::TimeZone;

/// A commit that waits for longer than this is worth a word.
const LAG_MILLIS: i64 = 60_000;

/// Whether somebody follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Running {
    Yes,
    /// It ended in order.
    Stopped,
    /// It ended by an error, or without a word.
    Died,
}

#[derive(Debug, serde::Serialize)]
pub struct FollowStatus {
    pub verdict: Verdict,
    pub running: Running,
    /// How long the oldest commit that is not durable has waited; null when none waits.
    pub lag_millis: Option<i64>,
    #[serde(flatten)]
    pub account: Account,
}

impl FollowStatus {
    pub fn of(vault: &Vault, source: &SourceName, now: Moment) -> Result<Option<Self>, Diagnostic> {
        let account = Account::recall(vault, source).map_err(backstay_ops::OpsError::from)?;
        Ok(account.map(|account| Self::judge(account, now)))
    }

    fn judge(account: Account, now: Moment) -> Self {
        let silent = now.millis_since(account.written) > SILENT_AFTER_MILLIS;
        let running = match (&account.ended, account.stopped) {
            (Some(_), _) => Running::Died,
            (None, Some(_)) => Running::Stopped,
            (None, None) if silent || !is_alive(account.pid) => Running::Died,
            (None, None) => Running::Yes,
        };
        let lag_millis = account.waiting_since.map(|since| now.millis_since(since).max(0));
        let allowed = LAG_MILLIS.max(account.interval_millis.cast_signed().saturating_mul(2));
        let late = lag_millis.is_some_and(|lag| lag > allowed);
        let uneasy = account.alarm.is_some() || account.store_away_since.is_some() || account.audit_wrong > 0;
        let verdict = match running {
            Running::Died => Verdict::Fail,
            _ if uneasy || late => Verdict::Partial,
            Running::Yes | Running::Stopped => Verdict::Pass,
        };
        Self { verdict, running, lag_millis, account }
    }

    /// The first thing that is wrong.
    pub fn words(&self) -> String {
        let account = &self.account;
        if self.running == Running::Died {
            let why = account.ended.as_deref().unwrap_or("its follower ended without a word");
            return format!("NOT FOLLOWED any more: {why}");
        }
        if let Some(alarm) = account.alarm {
            return alarm_words(alarm).to_owned();
        }
        if account.audit_wrong > 0 {
            return "the audit found a page that was not what was captured; it was followed anew".to_owned();
        }
        format!("the repository takes nothing; {} waiting", counted(account.waiting, "commit"))
    }

    pub fn render(&self, page: &mut Page, zone: &TimeZone) {
        let account = &self.account;
        let running = match (self.running, account.stopped) {
            (Running::Yes, _) if account.rests => format!("by pid {}, at rest", account.pid),
            (Running::Yes, _) => format!("by pid {}", account.pid),
            (Running::Stopped, Some(at)) => format!("stopped {}", time::local(at, zone)),
            _ => "NOT ANY MORE".to_owned(),
        };
        let state = match account.mode {
            Mode::Snapshots => "the state".to_owned(),
            _ => format!("state {}", account.tx),
        };
        page.evidence("followed", &format!("{running}, durable up to {state} of {}", time::local(account.at, zone)));
        let lag = self.lag_millis.map_or("none: nothing waits".to_owned(), |lag| {
            let spooled = ByteLen::new(account.spooled_bytes);
            format!("{}, {}, {spooled} in the spool", human_span(lag), counted(account.waiting, "commit"))
        });
        page.evidence("lag", &lag);
        page.evidence("log", &self.log_words());
        if let Some(audit) = account.audit {
            let compared = format!("{}, {} compared", time::local(audit.at, zone), counted(audit.compared, "page"));
            page.evidence("audit", &compared);
        }
        if let Some(gap) = &account.last_gap {
            page.evidence("last gap", &format!("{}: {}", time::local(gap.at, zone), gap.reason));
        }
    }

    fn log_words(&self) -> String {
        let held = |how: &str| format!("{}, {how}", ByteLen::new(self.account.log_bytes));
        match self.account.mode {
            Mode::Hold => held("held until durable"),
            Mode::Yield => held("held until read"),
            Mode::Watch => held("not held"),
            Mode::Snapshots => {
                let interval = human_span(self.account.interval_millis.cast_signed());
                format!("none: a snapshot of what changed, at most one in {interval}, and so much can be lost")
            }
        }
    }
}

/// Whether there is a process of that number. Another program's in the worst case: silence tells then.
fn is_alive(pid: u32) -> bool {
    pid > 0 && std::path::Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_model::Tx;
    use backstay_ops::follow::Alarm;

    fn at(millis: i64) -> Moment {
        Moment::from_millis(1_795_000_000_000 + millis).expect("in range")
    }

    fn account() -> Account {
        Account {
            pid: std::process::id(),
            written: at(0),
            mode: Mode::Yield,
            interval_millis: 250,
            tx: Tx::new(7),
            at: at(-500),
            waiting: 2,
            waiting_since: Some(at(-400)),
            waiting_bytes: 8192,
            spooled_bytes: 0,
            log_bytes: 40_000,
            alarm: None,
            store_away_since: None,
            gaps: 0,
            last_gap: None,
            audit: None,
            audit_wrong: 0,
            objects: 3,
            bytes: 900,
            rests: false,
            stopped: None,
            ended: None,
        }
    }

    #[test]
    fn a_follower_that_is_late_alarmed_or_gone_is_never_green() {
        let judged = |now, change: fn(&mut Account)| {
            let mut account = account();
            change(&mut account);
            let status = FollowStatus::judge(account, at(now));
            (status.running, status.verdict, status.lag_millis)
        };
        assert_eq!(judged(100, |_| {}), (Running::Yes, Verdict::Pass, Some(500)));
        assert_eq!(judged(60_000, |_| {}), (Running::Yes, Verdict::Partial, Some(60_400)));
        assert_eq!(judged(60_000, |a| a.interval_millis = 300_000).1, Verdict::Pass);
        assert_eq!(judged(100, |a| a.alarm = Some(Alarm::SpoolFull)).1, Verdict::Partial);
        assert_eq!(judged(100, |a| a.store_away_since = Some(at(50))).1, Verdict::Partial);
        assert_eq!(judged(100, |a| a.audit_wrong = 1).1, Verdict::Partial);
        // No number of a process is zero.
        assert_eq!(judged(100, |a| a.pid = 0), (Running::Died, Verdict::Fail, Some(500)));
        assert_eq!(judged(SILENT_AFTER_MILLIS + 1, |_| {}).0, Running::Died);
        assert_eq!(judged(100, |a| a.ended = Some("its slot was taken".into())).0, Running::Died);
        let stopped = |a: &mut Account| (a.stopped, a.waiting_since) = (Some(at(0)), None);
        assert_eq!(judged(SILENT_AFTER_MILLIS * 9, stopped), (Running::Stopped, Verdict::Pass, None));
    }
}
