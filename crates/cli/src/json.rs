// SPDX-License-Identifier: MIT OR Apache-2.0
//! JSON on stdout.

use std::io::{self, Write};

use nvstack_media::{Error, Result};

/// Writes bytes to stdout, all of them or an error. A reader that has gone away (`| head`) is not an error.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::os("write to stdout", e)),
        _ => Ok(()),
    }
}
