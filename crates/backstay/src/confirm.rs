//! The one question before something is replaced: the name of what is at stake, typed by a person or given in a flag.
//!
//! Must never: take a bare yes, or wait for an answer where nobody can give one.

use crate::diagnostics::Diagnostic;
use crate::output::{Mode, Printer};
use backstay_model::Kind;
use std::io::{BufRead, IsTerminal, Read};

/// Where an answer may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    Possible,
    /// No terminal, or the output is for a program.
    Impossible,
}

impl Asking {
    pub fn of(printer: &Printer) -> Self {
        if std::io::stdin().is_terminal() && printer.mode() == Mode::Human {
            Asking::Possible
        } else {
            Asking::Impossible
        }
    }
}

/// What is at stake.
#[derive(Debug, Clone, Copy)]
pub struct Stake<'a> {
    /// Its name, which must be typed.
    pub name: &'a str,
    /// What happens and what is lost, in numbers, as one sentence.
    pub loss: &'a str,
    /// What `--confirm` said.
    pub given: Option<&'a str>,
}

/// Returns only when the name was given; every other way nothing has been done.
pub fn by_name(printer: &Printer, stake: Stake<'_>) -> Result<(), Diagnostic> {
    ask(printer, stake, Asking::of(printer), &mut std::io::stdin().lock())
}

/// Names are short: a longer answer is not one.
const ANSWER_MAX: u64 = 256;

fn ask(printer: &Printer, stake: Stake<'_>, asking: Asking, answers: &mut dyn BufRead) -> Result<(), Diagnostic> {
    let name = stake.name;
    let refused = |what: String| {
        let flag = format!("Run it again and type `{name}`, or add `--confirm {name}`; `--dry-run` shows the plan.");
        Err(Diagnostic::new(Kind::Usage, what).because(stake.loss).hint(flag))
    };
    match (stake.given, asking) {
        (Some(given), _) if given == name => Ok(()),
        (Some(given), _) => refused(format!("`--confirm {given}` does not name `{name}`; nothing was changed")),
        (None, Asking::Impossible) => refused(format!("`{name}` must be confirmed; nothing was changed")),
        (None, Asking::Possible) => {
            printer.talk(stake.loss);
            printer.talk(&format!("Type {name} to go on:"));
            let mut answer = String::new();
            let read = answers.take(ANSWER_MAX).read_line(&mut answer);
            if read.is_ok() && answer.trim() == name {
                Ok(())
            } else {
                refused("not confirmed; nothing was changed".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::render::Colour;
    use crate::output::Shape;

    fn asked(given: Option<&str>, asking: Asking, answer: &str) -> Result<(), Diagnostic> {
        let shape = Shape { mode: Mode::Human, stdout: Colour::Off, stderr: Colour::Off, stderr_is_terminal: false };
        let printer = Printer::to(shape, Box::new(std::io::sink()), Box::new(std::io::sink()));
        let stake = Stake { name: "shop", loss: "61.3 MiB written since 12:40 are replaced", given };
        ask(&printer, stake, asking, &mut answer.as_bytes())
    }

    #[test]
    fn only_the_name_itself_confirms() {
        assert_eq!(asked(Some("shop"), Asking::Impossible, ""), Ok(()));
        assert_eq!(asked(None, Asking::Possible, "shop\n"), Ok(()));
        for answer in ["", "\n", "y\n", "yes\n", "Shop\n", "shopp\n", "shop shop\n"] {
            assert!(asked(None, Asking::Possible, answer).is_err(), "{answer:?}");
        }
        assert!(asked(None, Asking::Impossible, "shop\n").is_err(), "nobody is asked without a terminal");
        assert!(asked(Some("other"), Asking::Possible, "shop\n").is_err(), "a wrong flag is not asked about again");
    }

    #[test]
    fn a_refusal_says_what_was_at_stake() {
        let refusal = asked(None, Asking::Impossible, "").expect_err("a refusal");
        insta::assert_snapshot!(refusal.human(Colour::Off), @r"
        error: `shop` must be confirmed; nothing was changed
          why  61.3 MiB written since 12:40 are replaced
          fix  Run it again and type `shop`, or add `--confirm shop`; `--dry-run` shows the plan.
        ");
    }
}
