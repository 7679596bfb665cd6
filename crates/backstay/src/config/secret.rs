//! Key material on its way from wherever a person keeps it to the code that needs it.
//!
//! Must never: print, log or copy it elsewhere; take it from the command line; start a shell to get it.

use super::Env;
use backstay_model::{Kind, Kinded};
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

/// A key file holds a few lines: anything longer is the wrong file.
const LENGTH_MAX: u64 = 64 * 1024;

/// How long a key command may take, a person's touch of a hardware token included.
pub const COMMAND_TIME: Duration = Duration::from_secs(30);

/// Key material. Says "(secret)" to whoever prints it and is overwritten when dropped.
///
/// The pages it lived in may still have been swapped or copied by the kernel: this narrows the
/// window, it does not close it.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    #[cfg(test)]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the code that opens the repository.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Where key material is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    /// The name of the variable, not its content.
    Env(String),
    Command {
        program: String,
        arguments: Vec<String>,
    },
    Descriptor(u32),
}

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("there is no key file {}", path.display())]
    NoFile { path: PathBuf },
    #[error("cannot read the key from {from}")]
    Read { from: String, source: io::Error },
    #[error("the key file {} may be used by others (mode {mode:04o})", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the key from {from} is longer than {limit} bytes")]
    TooLong { from: String, limit: u64 },
    #[error("the key from {from} is empty")]
    Empty { from: String },
    #[error("cannot start the key command `{program}`")]
    Start { program: String, source: io::Error },
    #[error("the key command `{program}` failed ({status})")]
    Failed { program: String, status: ExitStatus },
    #[error("the key command `{program}` gave no answer for {seconds} s")]
    Slow { program: String, seconds: u64 },
}

impl Kinded for SecretError {
    fn kind(&self) -> Kind {
        match self {
            SecretError::Open { .. } => Kind::Denied,
            SecretError::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Kind::Denied,
            SecretError::Failed { .. } => Kind::Denied,
            SecretError::Slow { .. } => Kind::Unavailable,
            _ => Kind::Config,
        }
    }
}

impl fmt::Display for KeySource {
    /// Names the place; arguments of a command are left out, since some people put secrets there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::File(path) => write!(f, "{}", path.display()),
            KeySource::Env(name) => write!(f, "the variable {name}"),
            KeySource::Command { program, .. } => write!(f, "the command `{program}`"),
            KeySource::Descriptor(number) => write!(f, "file descriptor {number}"),
        }
    }
}

impl KeySource {
    /// Fetches the material. Dropping the future ends a running key command.
    pub async fn load(&self, env: &Env, patience: Duration) -> Result<Secret, SecretError> {
        let bytes = match self {
            KeySource::File(path) => {
                refuse_open_file(path)?;
                self.read(path)?
            }
            // The descriptor is opened through its name, which needs no claim to own it.
            KeySource::Descriptor(number) => self.read(&PathBuf::from(format!("/dev/fd/{number}")))?,
            KeySource::Env(name) => Zeroizing::new(env.get(name).unwrap_or_default().as_bytes().to_vec()),
            KeySource::Command { program, arguments } => self.run(program, arguments, patience).await?,
        };
        if bytes.len() as u64 > LENGTH_MAX {
            return Err(SecretError::TooLong { from: self.to_string(), limit: LENGTH_MAX });
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(SecretError::Empty { from: self.to_string() });
        }
        Ok(Secret(bytes))
    }

    fn read(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let failed = |source| SecretError::Read { from: self.to_string(), source };
        // One allocation of the largest size, so that growing leaves no copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH_MAX as usize + 1));
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(LENGTH_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    async fn run(
        &self,
        program: &str,
        arguments: &[String],
        patience: Duration,
    ) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SecretError::Start { program: program.to_owned(), source })?;
        let output = child.stdout.take();
        let answer = async {
            let failed = |source| SecretError::Read { from: self.to_string(), source };
            let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH_MAX as usize + 1));
            if let Some(output) = output {
                output.take(LENGTH_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
            }
            let status = child.wait().await.map_err(failed)?;
            Ok((bytes, status))
        };
        let slow = |_| SecretError::Slow { program: program.to_owned(), seconds: patience.as_secs() };
        let (bytes, status) = tokio::time::timeout(patience, answer).await.map_err(slow)??;
        if status.success() || bytes.len() as u64 > LENGTH_MAX {
            Ok(bytes)
        } else {
            Err(SecretError::Failed { program: program.to_owned(), status })
        }
    }
}

/// A key others can read is no key; a key others can change is worse.
fn refuse_open_file(path: &Path) -> Result<(), SecretError> {
    let mode = std::fs::metadata(path).map(|found| found.permissions().mode() & 0o7777);
    match mode {
        Ok(mode) if mode & 0o027 != 0 => Err(SecretError::Open { path: path.to_owned(), mode }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SecretError::NoFile { path: path.to_owned() }),
        Err(source) => Err(SecretError::Read { from: path.display().to_string(), source }),
    }
}
