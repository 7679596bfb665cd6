//! Writes `backstay.toml`: a fresh one for `init`. It is created new, or not at all; an existing one belongs to
//! the person who edits it.

use super::error::ConfigError;
use backstay_model::{SignerKey, SourceName};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use toml_edit::Value;

/// A database as it is to be written into a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSource {
    pub name: SourceName,
    pub path: PathBuf,
}

/// What `init` knows.
#[derive(Debug, Clone)]
pub struct FreshConfig {
    pub repository: String,
    /// What the table `[store]` is to say: names and values.
    pub store: Vec<(String, String)>,
    pub root: SignerKey,
    /// Absent when the key is kept elsewhere.
    pub key_file: Option<PathBuf>,
    pub sources: Vec<NewSource>,
}

impl FreshConfig {
    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# Backstay keeps the databases named below recoverable.\n\
             # `backstay config show --origin` lists every setting, also those that are not in this file.\n\
             # Relative paths start from the folder of this file.\n\n",
        );
        text.push_str("# Where the backups are kept.\n");
        text.push_str(&format!("repository = {}\n\n", quoted(&self.repository)));
        text.push_str(
            "# The public half of the repository's root key. A repository that does not know it is refused.\n",
        );
        text.push_str(&format!("root = {}\n\n", quoted(&self.root.to_string())));
        match &self.key_file {
            Some(path) => {
                text.push_str("# The key that opens the backups. Keep a copy of it somewhere else: without a key\n");
                text.push_str("# they cannot be read. Then run `backstay repo key confirm --key-file COPY`.\n");
                text.push_str(&format!("key_file = {}\n", quoted(&path.display().to_string())));
            }
            None => {
                text.push_str("# key_file, key_command or key_fd says where the key is; BACKSTAY_KEY may hold it.\n")
            }
        }
        if !self.store.is_empty() {
            text.push_str("\n# How the bucket is reached. Access keys never stand here.\n[store]\n");
        }
        for (name, value) in &self.store {
            text.push_str(&format!("{name} = {}\n", quoted(value)));
        }
        for source in &self.sources {
            text.push_str(&format!("\n[sources.{}]\n", source.name));
            text.push_str(&format!("path = {}\n", quoted(&source.path.display().to_string())));
            text.push_str("# Questions asked of every restored copy; the first column must be true.\n");
            text.push_str("# smoke = [\"SELECT count(*) > 0 FROM some_table\"]\n");
        }
        text
    }

    /// Creates the file, durable, and never replaces one.
    pub fn create(&self, path: &Path) -> Result<(), ConfigError> {
        let open = OpenOptions::new().write(true).create_new(true).open(path);
        let mut file = open.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => ConfigError::Exists { path: path.to_owned() },
            _ => ConfigError::Io { op: "create", path: path.to_owned(), source },
        })?;
        let written = file.write_all(self.render().as_bytes()).and_then(|()| file.sync_all());
        if let Err(source) = written {
            // Half a file would be in the way of the next try; it is ours, since it was created above.
            let _ = std::fs::remove_file(path);
            return Err(ConfigError::Io { op: "write", path: path.to_owned(), source });
        }
        sync_folder(path)
    }
}

/// Text as TOML writes it, whatever is in it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn sync_folder(path: &Path) -> Result<(), ConfigError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| ConfigError::Io { op: "make durable the folder of", path: path.to_owned(), source })
}
