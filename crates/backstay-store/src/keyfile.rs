//! The key file: the master identity as the `age` program reads it, and the signing keys as comments.
//!
//! `age -d -i backstay.key` takes the file as it is, which is half of the promise that a repository
//! opens without Backstay. A writer's key file may lack the identity, a reader's the root.

use crate::seal::ssh::SshIdentity;
use crate::seal::{MasterIdentity, SealError};
use crate::signing::SigningKey;
use backstay_model::{Kind, Kinded, Moment, RepoId, SignerKey};

const ROOT: &str = "# backstay-root-signing-key: ";
const SIGNER: &str = "# backstay-signing-key: ";
const IDENTITY: &str = "AGE-SECRET-KEY-1";

/// The longest key file that is read.
pub const LEN_MAX: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("line {line} is not 64 hexadecimal digits after its name")]
    BadSeed { line: usize },
    #[error("line {line} is neither a comment nor an age identity")]
    UnknownLine { line: usize },
    #[error("line {line} gives the same key a second time")]
    Twice { line: usize },
    #[error("it is {len} bytes long; a key file has at most {LEN_MAX}")]
    TooLong { len: usize },
    #[error("it holds no key at all")]
    Empty,
    #[error(transparent)]
    Identity(#[from] SealError),
}

impl Kinded for KeyFileError {
    fn kind(&self) -> Kind {
        Kind::Config
    }
}

/// What a key file holds. Which parts are there decides the roles its holder can play.
#[derive(Clone, Default)]
pub struct KeyFile {
    pub root: Option<SigningKey>,
    pub signer: Option<SigningKey>,
    /// The newest identity: the master, or what the master is wrapped to.
    pub identity: Option<MasterIdentity>,
    /// Masters that were before it: what was sealed to them is still theirs.
    pub older: Vec<MasterIdentity>,
    /// The file is an SSH key, which the master may be wrapped to, and holds nothing else.
    pub ssh: Option<SshIdentity>,
}

impl KeyFile {
    /// Every identity in it, the newest first.
    pub fn identities(&self) -> Vec<MasterIdentity> {
        self.identity.iter().chain(&self.older).cloned().collect()
    }

    /// Whether its holder can be a reader.
    pub fn opens(&self) -> bool {
        self.identity.is_some() || self.ssh.is_some()
    }

    /// The public halves of what it opens with.
    pub fn publics(&self) -> Vec<String> {
        let own = self.identities().into_iter().map(|identity| identity.master().text().to_owned());
        own.chain(self.ssh.iter().map(|ssh| ssh.recipient().text().to_owned())).collect()
    }

    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        if text.len() > LEN_MAX {
            return Err(KeyFileError::TooLong { len: text.len() });
        }
        if SshIdentity::is_meant(text) {
            return Ok(KeyFile { ssh: Some(SshIdentity::parse(text)?), ..KeyFile::default() });
        }
        let mut file = KeyFile::default();
        for (at, line) in text.lines().enumerate() {
            file.take(at + 1, line.trim_end())?;
        }
        if file.root.is_none() && file.signer.is_none() && file.identity.is_none() {
            return Err(KeyFileError::Empty);
        }
        Ok(file)
    }

    fn take(&mut self, line: usize, text: &str) -> Result<(), KeyFileError> {
        let twice = KeyFileError::Twice { line };
        if let Some(seed) = text.strip_prefix(ROOT) {
            let key = parse_seed(line, seed)?;
            return if self.root.replace(key).is_some() { Err(twice) } else { Ok(()) };
        }
        if let Some(seed) = text.strip_prefix(SIGNER) {
            let key = parse_seed(line, seed)?;
            return if self.signer.replace(key).is_some() { Err(twice) } else { Ok(()) };
        }
        if text.starts_with(IDENTITY) {
            let identity = MasterIdentity::parse(text)?;
            let known = self.identity.iter().chain(&self.older);
            if known.into_iter().any(|known| known.master().text() == identity.master().text()) {
                return Err(twice);
            }
            match self.identity {
                None => self.identity = Some(identity),
                Some(_) => self.older.push(identity),
            }
            return Ok(());
        }
        if text.is_empty() || text.starts_with('#') { Ok(()) } else { Err(KeyFileError::UnknownLine { line }) }
    }

    /// The text of a new key file. Secret: it goes to a file of mode 0600 and nowhere else.
    pub fn render(&self, repo: RepoId, made: Moment) -> String {
        let mut text = format!(
            "# Backstay key file for repository {repo}, made {made}.\n\
             # Whoever holds this file can read and sign every backup in that repository; whoever loses\n\
             # every copy of it can read none. Keep a copy away from this machine, then run\n\
             #   backstay repo key confirm --key-file <the copy>\n\
             # The program `age` reads this file as it is: age -d -i <this file>\n"
        );
        self.render_keys(&mut text);
        text
    }

    /// The same for a host that is to be enrolled: nobody else needs a copy of it.
    pub fn render_for_host(&self, name: &str, made: Moment) -> String {
        let mut text = format!(
            "# Backstay key file of the host {name}, made {made}.\n\
             # It belongs to that host alone: if it is lost, enrol the host again with a new one.\n"
        );
        self.render_keys(&mut text);
        text
    }

    fn render_keys(&self, text: &mut String) {
        for identity in self.identity.iter().chain(&self.older) {
            *text += &format!("# public half: {}\n{}\n", identity.master().text(), identity.secret_text());
        }
        for (name, key) in [(ROOT, &self.root), (SIGNER, &self.signer)] {
            if let Some(key) = key {
                *text += &format!("{name}{}\n", SignerKey::from_bytes(*key.seed()));
            }
        }
    }
}

/// The text of a key file with one more identity, in front of those it has. Every other line stays.
pub fn with_identity(text: &str, identity: &MasterIdentity, made: Moment) -> String {
    let mut added = format!("# public half: {}, made {made}\n{}\n", identity.master().text(), identity.secret_text());
    match text.lines().position(|line| line.starts_with(IDENTITY)) {
        None => {
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            format!("{text}{end}{added}")
        }
        Some(at) => {
            let lines: Vec<&str> = text.lines().collect();
            let (front, rest) = lines.split_at(at);
            added.push_str(&rest.join("\n"));
            let front: String = front.iter().map(|line| format!("{line}\n")).collect();
            format!("{front}{added}\n")
        }
    }
}

fn parse_seed(line: usize, text: &str) -> Result<SigningKey, KeyFileError> {
    let seed: SignerKey = text.trim().parse().map_err(|_| KeyFileError::BadSeed { line })?;
    Ok(SigningKey::from_seed(*seed.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> KeyFile {
        KeyFile {
            root: Some(SigningKey::from_seed([1; 32])),
            signer: Some(SigningKey::from_seed([2; 32])),
            identity: Some(MasterIdentity::generate()),
            older: vec![MasterIdentity::generate()],
            ssh: None,
        }
    }

    fn rendered(file: &KeyFile) -> String {
        file.render(RepoId::ZERO, Moment::from_millis(0).expect("in range"))
    }

    #[test]
    fn a_key_file_round_trips() {
        let file = sample();
        let read = KeyFile::parse(&rendered(&file)).expect("our own file");
        let master = |f: &KeyFile| f.identities().iter().map(MasterIdentity::secret_text).collect::<Vec<_>>();
        assert_eq!(master(&read), master(&file));
        assert_eq!(read.root.map(|k| k.public()), file.root.map(|k| k.public()));
        assert_eq!(read.signer.map(|k| k.public()), file.signer.map(|k| k.public()));
    }

    #[test]
    fn one_more_identity_comes_first_and_everything_else_stays() {
        let (file, fresh) = (sample(), MasterIdentity::generate());
        let text = rendered(&file);
        let added = with_identity(&text, &fresh, Moment::from_millis(0).expect("in range"));
        let read = KeyFile::parse(&added).expect("a key file");
        let secrets = |list: &[MasterIdentity]| list.iter().map(MasterIdentity::secret_text).collect::<Vec<_>>();
        assert_eq!(secrets(&read.identities()), secrets(&[vec![fresh], file.identities()].concat()));
        assert!(text.lines().all(|line| added.lines().any(|kept| kept == line)));
    }

    #[test]
    fn every_line_the_age_program_would_choke_on_is_refused() {
        let text = rendered(&sample());
        let doubled = format!("{text}{text}");
        for bad in ["", "# only words\n", "hello\n", "# backstay-signing-key: 00\n", "AGE-SECRET-KEY-1ABC\n", &doubled]
        {
            assert!(KeyFile::parse(bad).is_err(), "{bad}");
        }
    }
}
