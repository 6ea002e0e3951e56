// SPDX-License-Identifier: MIT OR Apache-2.0
//! One writer or many readers of a file, and who they are.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock, major, minor};
use rustix::io::Errno;

use crate::{Error, Kind, Result};

/// How a lock is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// With others that read.
    Shared,
    /// With nobody.
    Exclusive,
}

/// Locks an open file (`flock`) without waiting. The lock ends when the file is closed; it binds those who ask for it.
///
/// [`Kind::Busy`] if another holds it, with the process that does where the system tells.
pub fn lock(file: &File, path: impl AsRef<Path>, mode: LockMode) -> Result<()> {
    let operation = match mode {
        LockMode::Shared => FlockOperation::NonBlockingLockShared,
        LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        return match flock(file, operation) {
            Ok(()) => Ok(()),
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => Err(Error::new(Kind::Busy, "lock")
                .path(path)
                .found(format_args!("it in use by {}", who(file)))
                .accepted(match mode {
                    LockMode::Shared => "no writer beside a reader",
                    LockMode::Exclusive => "nobody beside a writer",
                })),
            Err(errno) => Err(Error::os("lock", errno.into()).path(path)),
        };
    }
}

/// The holders of the lock, for people.
fn who(file: &File) -> String {
    let pids = match (file.metadata(), fs::read_to_string("/proc/locks")) {
        (Ok(found), Ok(locks)) => holders(&locks, found.dev(), found.ino()),
        _ => Vec::new(),
    };
    if pids.is_empty() {
        // In another PID namespace, on another machine, or on a file system with device numbers of its own.
        return "another process".to_owned();
    }
    pids.iter().map(|pid| describe(*pid)).collect::<Vec<_>>().join(", ")
}

fn describe(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command);
    // A process chooses its own name, so it may hold anything.
    let command = command.trim_end().escape_debug();
    match command.to_string().as_str() {
        "" => format!("process {pid}"),
        command => format!("process {pid} ({command})"),
    }
}

/// The processes that hold a `flock` lock of a file, from the text of `/proc/locks`:
/// `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`. Device numbers are hexadecimal; `->` before the kind marks one that
/// only waits.
fn holders(locks: &str, device: u64, inode: u64) -> Vec<u32> {
    let wanted = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let mut pids: Vec<u32> = locks
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let kind = words.next()?;
            let pid = words.nth(2)?;
            let id = words.next()?;
            (kind == "FLOCK" && id == wanted).then(|| pid.parse().ok().filter(|pid| *pid > 0))?
        })
        .collect();
    pids.dedup();
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_those_of_this_inode_that_do_not_wait() {
        let locks = "1: POSIX  ADVISORY  WRITE 100 fe:00:77 0 EOF\n\
                     2: FLOCK  ADVISORY  READ  200 fe:00:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 300 fe:00:77 0 EOF\n\
                     3: FLOCK  ADVISORY  READ  400 fe:00:77 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 500 fe:00:78 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 600 fe:01:77 0 EOF\n\
                     6: FLOCK  ADVISORY  WRITE 0 fe:00:77 0 EOF\n\
                     7: FLOCK\n\nnonsense";
        assert_eq!(holders(locks, rustix::fs::makedev(0xfe, 0), 77), [200, 400]);
        assert!(holders("", 0, 0).is_empty());
    }
}
