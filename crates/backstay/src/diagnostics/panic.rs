//! A panic is our bug: it is said in those words, and the exit code is 70.

use super::Diagnostic;
use super::render::Colour;
use backstay_model::Kind;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

/// The words for a panic.
pub fn diagnostic(message: &str, place: &str) -> Diagnostic {
    Diagnostic::new(Kind::Internal, "this is a bug in Backstay, not a mistake of yours")
        .because(format!("{message} ({place})"))
        .hint("Restore points that were complete before stay complete; run `backstay check` to see it.")
        .hint(format!("Report the line above with the version, {}.", env!("CARGO_PKG_VERSION")))
}

fn of_hook(info: &PanicHookInfo<'_>) -> Diagnostic {
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = message.or_else(|| payload.downcast_ref::<String>().cloned());
    let place = info.location().map_or_else(|| "unknown place".to_owned(), |at| format!("{}:{}", at.file(), at.line()));
    diagnostic(&message.unwrap_or_else(|| "a panic without words".to_owned()), &place)
}

/// Replaces the trace the runtime would print, in whichever thread the panic happens.
pub fn install(colour: Colour) {
    std::panic::set_hook(Box::new(move |info| {
        use std::io::Write;
        // Printing may fail, and there is nobody left to tell.
        let _ = std::io::stderr().write_all(of_hook(info).human(colour).as_bytes());
    }));
}

/// Runs the program; `None` when it panicked.
pub fn guarded<T>(program: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(program)).ok()
}
