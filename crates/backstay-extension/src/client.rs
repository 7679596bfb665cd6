//! The pipe to the program that reads the repository.
//!
//! The program says `BSP1`, the size of a page and how many there are, each number in four bytes, the small end first. It is
//! asked with the number of a page, and answers with a byte: 0 and the page, or 1, a length and the reason why not.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const HELLO: &[u8; 4] = b"BSP1";
/// Bytes of a reason that are kept.
const REASON_MAX: u32 = 4096;
const PAGE_MAX: u32 = 65_536;

/// A moment of a source, and where to look for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub source: String,
    pub at: Option<String>,
    pub tx: Option<String>,
    pub snapshot: Option<String>,
    /// `latest-proven` or `label:NAME`.
    pub point: Option<String>,
    pub config: Option<String>,
    pub program: Option<String>,
}

impl Wanted {
    /// The words behind the program's name. Values stand behind `=`, so that none is taken for a flag.
    fn words(&self) -> Vec<String> {
        let mut words = vec!["query".to_owned(), "--quiet".to_owned(), "--pages".to_owned()];
        let flags = [("at", &self.at), ("tx", &self.tx), ("snapshot", &self.snapshot), ("config", &self.config)];
        let flags = flags.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?)));
        words.extend(flags);
        words.push("--".to_owned());
        words.push(self.source.clone());
        words.extend(self.point.clone());
        words
    }
}

/// The program, and what it said of the database.
pub struct Client {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    pub page_size: u32,
    pub pages: u32,
    /// The page that was read last: SQLite reads the first one in parts.
    last: (u32, Vec<u8>),
}

impl Client {
    pub fn start(wanted: &Wanted) -> Result<Self, String> {
        let program = wanted.program.as_deref().unwrap_or("backstay");
        let mut command = Command::new(program);
        command.args(wanted.words()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            format!("the program {program:?} cannot be run: {error}; name it with `program=` or put it into the PATH")
        })?;
        let pipes = (child.stdin.take(), child.stdout.take());
        let (Some(to), Some(mut from)) = pipes else { return Err("the program has no pipes".to_owned()) };
        let mut hello = [0; 12];
        if from.read_exact(&mut hello).is_err() {
            drop(to);
            return Err(why(&mut child));
        }
        let [a, b, c, d, size @ .., e, f, g, h] = hello;
        let (page_size, pages) = (u32::from_le_bytes(size), u32::from_le_bytes([e, f, g, h]));
        let mut client = Self { child, to, from, page_size, pages, last: (0, Vec::new()) };
        if [a, b, c, d] != *HELLO || !(512..=PAGE_MAX).contains(&page_size) || !page_size.is_power_of_two() {
            let _ = client.child.kill();
            return Err(format!("{program:?} is not the `backstay` that this extension belongs to"));
        }
        // Nobody reads what it says later: it must never wait for that.
        drop(client.child.stderr.take());
        Ok(client)
    }

    /// A page, by its number from 1.
    pub fn page(&mut self, number: u32) -> Result<&[u8], String> {
        if self.last.0 != number {
            self.last.0 = 0;
            self.ask(number).map_err(|error| format!("the program ended: {error}"))??;
            self.last.0 = number;
        }
        Ok(&self.last.1)
    }

    fn ask(&mut self, number: u32) -> io::Result<Result<(), String>> {
        self.to.write_all(&number.to_le_bytes())?;
        self.to.flush()?;
        let mut answer = [0];
        self.from.read_exact(&mut answer)?;
        if answer == [0] {
            self.last.1.resize(self.page_size as usize, 0);
            return self.from.read_exact(&mut self.last.1).map(Ok);
        }
        let mut length = [0; 4];
        self.from.read_exact(&mut length)?;
        let mut reason = vec![0; u32::from_le_bytes(length).min(REASON_MAX) as usize];
        self.from.read_exact(&mut reason)?;
        Ok(Err(String::from_utf8_lossy(&reason).into_owned()))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It only reads: nothing is lost when it is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the program said before it gave up.
fn why(child: &mut Child) -> String {
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(u64::from(REASON_MAX)).read_to_string(&mut said);
    }
    let _ = child.wait();
    let said = said.trim();
    if said.is_empty() { "the program ended without a word".to_owned() } else { said.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_name_becomes_a_flag() {
        let wanted = Wanted {
            source: "--config=/etc/evil".to_owned(),
            at: Some("--tx=1".to_owned()),
            point: Some("--csv".to_owned()),
            ..Wanted::default()
        };
        let words = ["query", "--quiet", "--pages", "--at=--tx=1", "--", "--config=/etc/evil", "--csv"];
        assert_eq!(wanted.words(), words);
    }

    #[test]
    fn a_program_that_is_none_or_another_is_named() {
        let start = |program: &str| {
            let wanted = Wanted { program: Some(program.to_owned()), ..Wanted::default() };
            Client::start(&wanted).map(|_| ()).expect_err("no program of ours")
        };
        assert!(start("/nonexistent/backstay").contains("cannot be run"));
        assert!(start("/bin/false").contains("without a word"));
        assert!(start("/bin/echo").contains("is not the `backstay`"));
    }
}
