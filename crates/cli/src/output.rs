// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a command's data goes: stdout, or a file of its own.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use nvstack_media::{Error, Result};

use crate::json::write_stdout;

/// Where data goes.
pub(crate) enum Output {
    /// stdout.
    Stdout,
    /// A new file. One that was there is never opened.
    File { file: File, path: PathBuf, whole: bool },
}

impl Output {
    /// A new file, or stdout.
    pub(crate) fn open(file: Option<&Path>) -> Result<Output> {
        let Some(path) = file else { return Ok(Output::Stdout) };
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|e| Error::os("make output file", e).path(path))?;
        Ok(Output::File { file, path: path.to_path_buf(), whole: false })
    }

    /// Writes all of these bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Output::Stdout => write_stdout(bytes),
            Output::File { file, path, .. } => {
                file.write_all(bytes).map_err(|e| Error::os("write output", e).path(path))
            }
        }
    }

    /// All of it is written. A file that is dropped before is removed.
    pub(crate) fn finish(mut self) {
        if let Output::File { whole, .. } = &mut self {
            *whole = true;
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Output::File { path, whole: false, .. } = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Writes data to a new file, or to stdout.
pub(crate) fn write_out(file: Option<&Path>, bytes: &[u8]) -> Result<()> {
    let mut output = Output::open(file)?;
    output.write(bytes)?;
    output.finish();
    Ok(())
}
