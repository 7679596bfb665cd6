//! Writes the golden files that do not exist yet. One that exists is never touched: bytes of a
//! released version do not change, a new version gets a new folder.

#[path = "../tests/golden/samples.rs"]
mod samples;

use std::io::{ErrorKind, Write};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    std::fs::create_dir_all(samples::FOLDER)?;
    for (name, bytes) in samples::all() {
        let path = std::path::Path::new(samples::FOLDER).join(name);
        match std::fs::File::create_new(&path) {
            Ok(mut file) => {
                file.write_all(&bytes)?;
                writeln!(out, "{name}: written, {} bytes", bytes.len())?;
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => writeln!(out, "{name}: exists, left alone")?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
