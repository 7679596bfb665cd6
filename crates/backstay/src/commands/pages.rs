//! `backstay query --pages`: the pages of a moment for the loadable extension, over the two pipes it made.
//!
//! What is said is written down in the extension's `client`, which belongs to the same release. Ends when the other side does.

use crate::context::{Done, Outcome};
use crate::diagnostics::Diagnostic;
use backstay_model::Kind;
use backstay_ops::query::Past;
use backstay_sqlite::lazy::PageReader;
use std::io::{self, BufWriter, Read, Write};

const HELLO: &[u8; 4] = b"BSP1";
const REASON_MAX: usize = 4096;

pub fn serve(past: &Past) -> Outcome {
    match exchange(past, io::stdin().lock(), BufWriter::new(io::stdout().lock())) {
        Ok(()) => Ok(Done::Plainly),
        // Whoever asked is gone, which is how it ends.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Done::Plainly),
        Err(error) => {
            Err(Diagnostic::new(Kind::of_io(&error), "the pipe to the extension broke").because(error.to_string()))
        }
    }
}

fn exchange(past: &Past, mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let source = past.pages();
    let (size, pages) = (source.page_size().get(), source.pages());
    let mut reader = PageReader::new(source);
    let mut page = vec![0; size as usize];
    to.write_all(HELLO)?;
    to.write_all(&size.to_le_bytes())?;
    to.write_all(&pages.to_le_bytes())?;
    to.flush()?;
    let mut number = [0; 4];
    loop {
        match from.read_exact(&mut number) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let number = u32::from_le_bytes(number);
        let read = if (1..=pages).contains(&number) {
            reader.page(number, &mut page).map_err(|fault| fault.to_string())
        } else {
            Err(format!("there is no page {number}"))
        };
        match read {
            Ok(()) => {
                to.write_all(&[0])?;
                to.write_all(&page)?;
            }
            Err(reason) => {
                let reason = reason.as_bytes().get(..REASON_MAX).unwrap_or(reason.as_bytes());
                to.write_all(&[1])?;
                to.write_all(&(reason.len() as u32).to_le_bytes())?;
                to.write_all(reason)?;
            }
        }
        to.flush()?;
    }
}
