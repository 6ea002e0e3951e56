// SPDX-License-Identifier: MIT OR Apache-2.0
//! A place for the socket that nobody named a place for.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use nvstack_media::{Error, Kind, Result};

/// A directory of our own for the socket, gone when this is dropped.
pub(crate) struct PrivateDir(PathBuf);

impl PrivateDir {
    /// Makes one under `XDG_RUNTIME_DIR`, or `/tmp`; nobody else may look into it.
    pub(crate) fn new() -> Result<PrivateDir> {
        let parent = std::env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute() && p.is_dir())
            .unwrap_or_else(|| "/tmp".into());
        let mut id = [0u8; 8];
        getrandom::fill(&mut id)
            .map_err(|e| Error::new(Kind::Io, "name a directory for the socket").found(e))?;
        let path = parent.join(format!("nvstack-{:016x}", u64::from_le_bytes(id)));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| Error::os("make a directory for the socket", e).path(&path))?;
        Ok(PrivateDir(path))
    }

    /// The socket's path in it.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("nbd.sock")
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // The server removed its socket; whatever else may be there is not ours.
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_directory_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt;
        let dir = PrivateDir::new().unwrap();
        let path = dir.0.clone();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        drop(dir);
        assert!(!path.exists());
    }
}
