// SPDX-License-Identifier: MIT OR Apache-2.0
//! A writer of `newc` archives, as the kernel unpacks them for its first file system.

use std::collections::BTreeSet;
use std::path::Path;

use crate::report::{Failure, Result};

/// Archives follow each other at multiples of this, or the kernel does not see the second.
const BLOCK: usize = 512;

/// An archive in memory.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// A folder, and those above it, unless they are there.
    pub(crate) fn folder(&mut self, path: &str) -> Result<()> {
        let mut above = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if !above.is_empty() {
                above.push('/');
            }
            above.push_str(part);
            if self.folders.insert(above.clone()) {
                self.entry(&above, 0o040_755, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// A file, with the folders above it.
    pub(crate) fn file(&mut self, path: &str, executable: bool, content: &[u8]) -> Result<()> {
        self.above(path)?;
        self.entry(path, if executable { 0o100_755 } else { 0o100_644 }, (0, 0), content)
    }

    /// A symbolic link, with the folders above it.
    pub(crate) fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.above(path)?;
        self.entry(path, 0o120_777, (0, 0), to.as_bytes())
    }

    /// A character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.above(path)?;
        self.entry(path, 0o020_600, (major, minor), &[])
    }

    /// Ends the archive and pads it, so that another may follow.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.pad(BLOCK);
        Ok(self.bytes)
    }

    fn above(&mut self, path: &str) -> Result<()> {
        let above = Path::new(path).parent().map(|above| above.to_string_lossy().into_owned());
        self.folder(&above.unwrap_or_default())
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) -> Result<()> {
        let path = path.trim_start_matches('/');
        let length = |n: usize| {
            u32::try_from(n).map_err(|_| Failure::from(format!("{path} does not fit into a cpio archive")))
        };
        self.entries += 1;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let size = length(content.len())?;
        let name = length(path.len() + 1)?;
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
        Ok(())
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_names_and_contents_are_aligned_and_folders_come_once() {
        let mut archive = Archive::default();
        archive.file("/usr/bin/a", true, b"abcde").expect("fits");
        archive.file("usr/bin/b", false, b"").expect("fits");
        archive.link("bin", "usr/bin").expect("fits");
        archive.device("dev/console", 5, 1).expect("fits");
        let bytes = archive.finish().expect("fits");
        assert_eq!(bytes.len() % BLOCK, 0);

        let mut seen = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701", "at {at}");
            let field = |n: usize| {
                let digits = std::str::from_utf8(&bytes[at + 6 + n * 8..at + 14 + n * 8]).expect("digits");
                usize::from_str_radix(digits, 16).expect("a number")
            };
            let name = String::from_utf8_lossy(&bytes[at + 110..at + 110 + field(11) - 1]).into_owned();
            if name == "TRAILER!!!" {
                break;
            }
            let content = (at + 110 + field(11)).next_multiple_of(4);
            seen.push((name, field(1), bytes[content..content + field(6)].to_vec(), (field(9), field(10))));
            at = (content + field(6)).next_multiple_of(4);
        }
        let expected = [
            ("usr", 0o40755, "", (0, 0)),
            ("usr/bin", 0o40755, "", (0, 0)),
            ("usr/bin/a", 0o100_755, "abcde", (0, 0)),
            ("usr/bin/b", 0o100_644, "", (0, 0)),
            ("bin", 0o120_777, "usr/bin", (0, 0)),
            ("dev", 0o40755, "", (0, 0)),
            ("dev/console", 0o20600, "", (5, 1)),
        ];
        let expected =
            expected.map(|(name, mode, content, device)| (name.to_owned(), mode, content.into(), device));
        assert_eq!(seen, expected);
    }
}
