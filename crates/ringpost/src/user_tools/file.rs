//! The file of users, changed with all that stands around what is changed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use toml_edit::{Array, DocumentMut, Item, Table, value};

use crate::auth::{Users, users};

/// The mode of a new file.
const MODE: u32 = 0o600;

/// What [`UsersFile::set_verifier`] replaces.
const VERIFIERS: [&str; 2] = ["argon2id", "scram_sha_256"];

/// A file of users in memory.
pub(super) struct UsersFile {
    document: DocumentMut,
}

impl UsersFile {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = || path.display().to_string();
        let text = users::read(path).with_context(shown)?;
        Users::parse(&text).with_context(shown)?;
        Ok(Self { document: text.parse().with_context(shown)? })
    }

    /// An empty one if there is none.
    pub(super) fn open_or_new(path: &Path) -> anyhow::Result<Self> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { document: DocumentMut::new() })
            }
            _ => Self::open(path),
        }
    }

    fn users(&mut self) -> Option<&mut Table> {
        let users = self.document.entry("user").or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        users.as_table_mut()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.document.get("user").is_some_and(|users| users.get(name).is_some())
    }

    fn set_item(&mut self, name: &str, key: &str, item: Item) {
        if let Some(users) = self.users()
            && let Some(user) =
                users.entry(name).or_insert_with(|| Item::Table(Table::new())).as_table_like_mut()
        {
            user.insert(key, item);
        }
    }

    pub(super) fn set(&mut self, name: &str, key: &str, text: &str) {
        self.set_item(name, key, value(text));
    }

    pub(super) fn set_list(&mut self, name: &str, key: &str, texts: &[String]) {
        self.set_item(name, key, value(texts.iter().collect::<Array>()));
    }

    /// Sets one verifier in place of all.
    pub(super) fn set_verifier(&mut self, name: &str, key: &str, verifier: &str) {
        self.remove_verifiers(name);
        self.set(name, key, verifier);
    }

    /// Forgets the password of a user.
    pub(super) fn remove_verifiers(&mut self, name: &str) {
        let user = self.users().and_then(|users| users.get_mut(name));
        if let Some(user) = user.and_then(Item::as_table_like_mut) {
            for key in VERIFIERS {
                user.remove(key);
            }
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.users().is_some_and(|users| users.remove(name).is_some())
    }

    /// Writes the file as a whole, or leaves the one that is there.
    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = self.document.to_string();
        Users::parse(&text).context("the file would be wrong, and is not written")?;
        // Through a link, what it leads to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let Some(name) = path.file_name() else { bail!("{}: not a file", path.display()) };
        let mut beside = name.to_owned();
        beside.push(format!(".{}.new", std::process::id()));
        let beside = path.with_file_name(beside);
        let written = write(&beside, &path, &text);
        if written.is_err() {
            // It may never have come to be.
            let _ = fs::remove_file(&beside);
        }
        written.with_context(|| path.display().to_string())
    }
}

fn write(beside: &PathBuf, path: &PathBuf, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(beside)?;
    if let Ok(old) = fs::metadata(path) {
        use std::os::unix::fs::{MetadataExt as _, fchown};

        // Whoever may read the old one has to be able to read the new one, such as the server.
        let new = file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.permissions().mode() & 0o777))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
