//! `backstay man`: manual pages from the grammar, one per command.

use crate::args::{Man, grammar};
use crate::context::{Context, Done, Outcome};
use crate::diagnostics::Diagnostic;
use backstay_model::Kind;
use std::io;
use std::path::Path;

pub fn run(context: &Context, args: &Man) -> Outcome {
    match &args.dir {
        None => context.printer.data(&page(grammar()).map_err(|error| failed("write the page", &error))?),
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|error| failed(&format!("create {}", dir.display()), &error))?;
            let mut grammar = grammar();
            grammar.build();
            write_tree(dir, &grammar)?;
        }
    }
    Ok(Done::Plainly)
}

/// The grammar is three levels deep, so the recursion is too.
fn write_tree(dir: &Path, command: &clap::Command) -> Result<(), Diagnostic> {
    let name = command.get_display_name().unwrap_or(command.get_name()).replace(' ', "-");
    let path = dir.join(format!("{name}.1"));
    let written = page(command.clone()).and_then(|text| std::fs::write(&path, text));
    written.map_err(|error| failed(&format!("write {}", path.display()), &error))?;
    command.get_subcommands().try_for_each(|below| write_tree(dir, below))
}

fn page(command: clap::Command) -> io::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn failed(what: &str, error: &io::Error) -> Diagnostic {
    Diagnostic::new(Kind::of_io(error), format!("cannot {what}"))
        .because(error.to_string())
        .hint("Name a folder you may write to with `backstay man --dir DIR`.")
}
