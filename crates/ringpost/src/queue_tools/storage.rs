//! The directory of a shard by plain, blocking calls: for a queue that no server uses.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    rc::Rc,
};

use ringpost_queue::storage::Storage;

/// How much of a new file is zeroed in one write.
const ZERO_BLOCK_SIZE: usize = 256 * 1024;

/// A directory of segments.
#[derive(Debug, Clone)]
pub(super) struct FileStorage {
    directory: PathBuf,
}

impl FileStorage {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn named(&self, name: &str, error: &io::Error) -> io::Error {
        let path = self.directory.join(name);
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    }

    fn make(&self, name: &str, size: u64) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(self.directory.join(name))?;
        let zeros = vec![0; ZERO_BLOCK_SIZE];
        let mut offset = 0;
        while offset < size {
            let len = (size - offset).min(ZERO_BLOCK_SIZE as u64);
            file.write_all_at(&zeros[..len as usize], offset)?;
            offset += len;
        }
        file.sync_all()?;
        sync_directory(&self.directory)?;
        Ok(file)
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Storage for FileStorage {
    type File = Rc<File>;

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        let entries = fs::read_dir(&self.directory).map_err(|error| self.named("", &error))?;
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Some(name)) = (metadata.is_file(), entry.file_name().to_str()) {
                files.push((name.to_owned(), metadata.len()));
            }
        }
        Ok(files)
    }

    async fn create(&self, name: &str, size: u64) -> io::Result<Self::File> {
        self.make(name, size).map(Rc::new).map_err(|error| self.named(name, &error))
    }

    async fn open(&self, name: &str) -> io::Result<Self::File> {
        let path = self.directory.join(name);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        // To look at it, reading is enough.
        let opened = match opened {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(&path),
            opened => opened,
        };
        opened.map(Rc::new).map_err(|error| self.named(name, &error))
    }

    async fn write(
        &self,
        file: &Self::File,
        offset: u64,
        bytes: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let written = file.write_all_at(&bytes, offset).and_then(|()| file.sync_data());
        (written.map(|()| bytes.len()), bytes)
    }

    async fn read(&self, file: &Self::File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            match file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    async fn sync_directory(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn it_does_what_the_seam_promises() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::new(directory.path());
        let size = ZERO_BLOCK_SIZE as u64 + 4096;
        let file = block_on(storage.create("one", size)).unwrap();
        assert_eq!(block_on(storage.list()).unwrap(), [("one".to_owned(), size)]);
        let again = block_on(storage.create("one", 4096)).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let (written, bytes) = block_on(storage.write(&file, size - 4096, vec![7; 4096]));
        assert_eq!((written.unwrap(), bytes.len()), (4096, 4096));
        let read = block_on(storage.read(&file, size - 4097, 9000)).unwrap();
        assert_eq!((read.len(), read[0], read[1]), (4097, 0, 7));
        block_on(storage.rename("one", "two")).unwrap();
        block_on(storage.sync_directory()).unwrap();
        let error = block_on(storage.open("one")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("one"), "{error}");
        block_on(storage.remove("two")).unwrap();
        assert!(block_on(storage.list()).unwrap().is_empty());
    }
}
