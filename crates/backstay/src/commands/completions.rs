//! `backstay completions`: needs no configuration and no repository, so that a package can call it while building.

use crate::args::{Completions, grammar};
use crate::context::{Context, Done, Outcome};

pub fn run(context: &Context, args: &Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut grammar(), "backstay", &mut script);
    context.printer.data(&String::from_utf8_lossy(&script));
    Ok(Done::Plainly)
}
