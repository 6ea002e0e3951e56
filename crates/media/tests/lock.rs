// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second holder is told who the first one is.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use nvstack_media::{Access, Kind, LockMode, Mapping, lock};

const HOLD: &str = "NVSTACK_TEST_HOLD";

/// Only as a child: holds the lock until its standard input ends.
#[test]
fn child_holds() {
    if let Ok(path) = std::env::var(HOLD) {
        let _mapping = Mapping::open_locked(path, Access::ReadWrite).unwrap();
        println!("\nholding");
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    }
}

#[test]
fn a_conflict_names_the_holder() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_holds", "--nocapture"])
        .env(HOLD, file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holding"));
    let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let error = Mapping::open_locked(file.path(), access).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), Kind::Busy, "{message}");
        assert!(message.contains(file.path().to_str().unwrap()), "{message}");
        assert!(message.contains(&format!("process {} ({})", child.id(), name.trim())), "{message}");
    }
    // Whoever asks for no lock is not kept out, and the holder's end is the lock's.
    Mapping::open(file.path(), Access::ReadOnly).unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    Mapping::open_locked(file.path(), Access::ReadWrite).unwrap();
}

#[test]
fn readers_share_and_writers_do_not() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(4096).unwrap();
    let open = |access| Mapping::open_locked(file.path(), access);
    let readers = (open(Access::ReadOnly).unwrap(), open(Access::ReadOnly).unwrap());
    let error = open(Access::ReadWrite).unwrap_err();
    assert!(error.to_string().contains(&format!("process {} (", std::process::id())), "{error}");
    drop(readers);
    let writer = open(Access::ReadWrite).unwrap();
    assert_eq!(open(Access::ReadOnly).unwrap_err().kind(), Kind::Busy);
    drop(writer);
    let other = File::open(file.path()).unwrap();
    lock(&other, file.path(), LockMode::Exclusive).unwrap();
    assert_eq!(open(Access::ReadOnly).unwrap_err().kind(), Kind::Busy);
}
