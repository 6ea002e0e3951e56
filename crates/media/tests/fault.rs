// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes that go away under a mapping: an error for the call that meets it, and nothing else happens.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#![allow(missing_docs, unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::c_int;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nvstack_media::{Access, Anon, Error, Kind, Mapping, Media, MediaOffset};

const PAGE: u64 = 4096;
const SIZE: u64 = 64 * PAGE;

fn at(offset: u64) -> MediaOffset {
    MediaOffset(offset)
}

/// A file of `SIZE` bytes on disk or in memory, mapped, with its own handle to change it behind the mapping's back.
fn mapped(directory: &str) -> (Mapping, File) {
    let file = tempfile::NamedTempFile::new_in(directory).unwrap();
    file.as_file().set_len(SIZE).unwrap();
    let mapping = Mapping::open(file.path(), Access::ReadWrite).unwrap();
    (mapping, file.into_file())
}

fn shrunk(done: Result<(), Error>, offset: u64, size: u64) {
    let error = done.unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Fault, Some(at(offset))), "{error}");
    assert!(
        error.to_string().contains(&format!("the file shrank to {size} bytes, {SIZE} are mapped")),
        "{error}"
    );
}

#[test]
fn a_shrunk_file_fails_the_calls_beyond_its_end_and_no_other() {
    for directory in [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"] {
        let (mapping, file) = mapped(directory);
        mapping.store(at(0), &vec![1; SIZE as usize]).unwrap();
        mapping.drain().unwrap();
        let end = 10 * PAGE;
        file.set_len(end).unwrap();
        for _ in 0..3 {
            shrunk(mapping.read(at(end - 100), &mut [0; 200]), end, end);
            shrunk(mapping.store(at(SIZE - 1), &[0]), SIZE - 1, end);
            shrunk(mapping.stream(at(end - 1), &[0; 100]), end, end);
            shrunk(mapping.zero(at(end + 5), 8), end + 5, end);
            shrunk(mapping.zero(at(0), SIZE), 0, end);
            shrunk(mapping.load_u32(at(end)).map(drop), end, end);
            shrunk(mapping.load_u64(at(end)).map(drop), end, end);
            shrunk(mapping.store_u32(at(end + 4), 0), end + 4, end);
            shrunk(mapping.store_u64(at(end + 8), 0), end + 8, end);
            shrunk(mapping.extent(at(end), PAGE).map(drop), end, end);
            mapping.read(at(0), &mut vec![0; end as usize]).unwrap();
            mapping.store(at(0), &[2; 8]).unwrap();
        }
    }
}

#[test]
fn a_file_that_grows_again_works_again() {
    for directory in [env!("CARGO_TARGET_TMPDIR"), "/dev/shm"] {
        let (mapping, file) = mapped(directory);
        file.set_len(0).unwrap();
        mapping.read(at(0), &mut [0]).unwrap_err();
        file.set_len(SIZE).unwrap();
        mapping.store(at(SIZE - 5), b"again").unwrap();
        let mut five = [0; 5];
        mapping.read(at(SIZE - 5), &mut five).unwrap();
        assert_eq!(&five, b"again");
        mapping.drain().unwrap();
    }
}

#[test]
fn a_drain_of_stores_that_a_shrinking_file_lost_fails_for_good() {
    let (mapping, file) = mapped(env!("CARGO_TARGET_TMPDIR"));
    mapping.store(at(20 * PAGE), b"lost").unwrap();
    file.set_len(PAGE).unwrap();
    for _ in 0..2 {
        let error = mapping.drain().unwrap_err();
        assert_eq!(error.kind(), Kind::Fault, "{error}");
        assert!(error.to_string().contains("the file shrank to 4096 bytes"), "{error}");
        assert_eq!(mapping.store(at(0), b"x").unwrap_err().kind(), Kind::Fault);
        file.set_len(SIZE).unwrap();
    }
    mapping.read(at(0), &mut [0; 100]).unwrap();

    // Only what was lost counts: stores before the new end are safe.
    let (mapping, file) = mapped(env!("CARGO_TARGET_TMPDIR"));
    mapping.store(at(0), b"kept").unwrap();
    file.set_len(PAGE).unwrap();
    mapping.drain().unwrap();
}

/// Its pages may be dirty by the hand of a process that was killed: a drain after it covers them, and so it finds out that
/// they are gone.
#[test]
fn a_flush_is_drained_though_somebody_else_stored() {
    let (mapping, file) = mapped(env!("CARGO_TARGET_TMPDIR"));
    file.set_len(PAGE).unwrap();
    mapping.flush(at(0), 8).unwrap();
    mapping.drain().unwrap();
    file.set_len(SIZE).unwrap();
    mapping.flush(at(20 * PAGE), 8).unwrap();
    file.set_len(PAGE).unwrap();
    assert_eq!(mapping.drain().unwrap_err().kind(), Kind::Fault);
}

#[test]
fn a_storm_of_faults_in_many_threads_harms_nobody() {
    let (mapping, file) = mapped("/dev/shm");
    let neighbour = Anon::new(SIZE).unwrap();
    file.set_len(PAGE).unwrap();
    thread::scope(|scope| {
        for thread in 0..4u8 {
            let (mapping, neighbour) = (&mapping, &neighbour);
            scope.spawn(move || {
                let own = at(u64::from(thread) * PAGE);
                for round in 0..5000u64 {
                    let error = mapping.read(at(PAGE - 7 + round % 7), &mut [0; 4000]).unwrap_err();
                    assert_eq!((error.kind(), error.offset()), (Kind::Fault, Some(at(PAGE))));
                    assert_eq!(mapping.store_u64(at(2 * PAGE), round).unwrap_err().kind(), Kind::Fault);
                    neighbour.stream(own, &[thread; 512]).unwrap();
                    let mut back = [0; 512];
                    neighbour.read(own, &mut back).unwrap();
                    assert_eq!(back, [thread; 512]);
                }
            });
        }
    });
}

#[test]
fn a_file_that_shrinks_and_grows_under_running_copies_gives_errors_only() {
    let (mapping, file) = mapped("/dev/shm");
    let (stop, faults, copies) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let copier = |store: bool| {
            let mut buffer = vec![1; SIZE as usize];
            while !stop.load(Ordering::Relaxed) {
                let done =
                    if store { mapping.store(at(0), &buffer) } else { mapping.read(at(0), &mut buffer) };
                match done {
                    Ok(()) => copies.fetch_add(1, Ordering::Relaxed),
                    Err(e) if e.kind() == Kind::Fault => faults.fetch_add(1, Ordering::Relaxed),
                    Err(e) => panic!("{e}"),
                };
            }
        };
        scope.spawn(move || copier(true));
        scope.spawn(move || copier(false));
        while faults.load(Ordering::Relaxed) < 200 || copies.load(Ordering::Relaxed) < 200 {
            file.set_len(PAGE).unwrap();
            thread::yield_now();
            file.set_len(SIZE).unwrap();
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

const PART: &str = "NVSTACK_TEST_FAULT_CHILD";

/// Runs this test binary again, in the part of `child`.
fn run(part: &str) -> (ExitStatus, String) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(PART, part)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    (child.status, said)
}

/// Reads a byte of a mapping whose file is empty, by an instruction of this program and not of the crate.
fn bus_error_elsewhere() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(PAGE).unwrap();
    let (protection, fd) = (libc::PROT_READ, file.as_raw_fd());
    // SAFETY: the kernel chooses the address, so nothing in use is replaced.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, fd, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    file.set_len(0).unwrap();
    // SAFETY: the page is mapped for reading; that the read kills the process is what is wanted.
    unsafe { page.cast::<u8>().read_volatile() };
}

fn act(handler: usize, flags: c_int) {
    // SAFETY: all-zero bytes are a valid action.
    let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
    (action.sa_sigaction, action.sa_flags) = (handler, flags);
    // SAFETY: the action is valid, and `handler` is a function that suits its flags, or a special value.
    assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) }, 0);
}

fn raise() {
    // SAFETY: raising a signal touches no memory.
    unsafe { libc::raise(libc::SIGBUS) };
}

static TOLD: AtomicU64 = AtomicU64::new(0);

extern "C" fn plain(signal: c_int) {
    TOLD.fetch_add(signal as u64, Ordering::SeqCst);
}

extern "C" fn with_information(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: a handler with SA_SIGINFO is given a valid siginfo.
    let info = unsafe { &*info };
    assert_eq!(info.si_signo, signal);
    TOLD.fetch_add(1000, Ordering::SeqCst);
}

/// Only as a child: sets the stage that the environment names, then meets a bus error that is not the crate's.
#[test]
fn child() {
    let Ok(part) = std::env::var(PART) else { return };
    let core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a limit that is valid. No core dumps of a death that is wanted.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const core) };
    match part.as_str() {
        "default" | "default, sent" => act(libc::SIG_DFL, 0),
        "ignored" | "ignored, sent" => act(libc::SIG_IGN, 0),
        "plain, sent" => act(plain as *const () as usize, 0),
        "with information, sent" => act(with_information as *const () as usize, libc::SA_SIGINFO),
        // Rust's own, which tells stack overflows from other errors.
        _ => {}
    }
    // Its own faults are met under each of these.
    let (mapping, file) = mapped("/dev/shm");
    file.set_len(PAGE).unwrap();
    shrunk(mapping.read(at(PAGE), &mut [0]), PAGE, PAGE);
    println!("\nmet its own");
    if part.ends_with("sent") {
        raise();
    } else {
        bus_error_elsewhere();
    }
    println!("\noutlived it");
    shrunk(mapping.read(at(PAGE), &mut [0]), PAGE, PAGE);
    println!("\ntold {}", TOLD.load(Ordering::SeqCst));
}

#[test]
fn a_bus_error_from_elsewhere_kills_as_it_always_did() {
    for part in ["default", "default, sent", "ignored", "rust"] {
        let (status, said) = run(part);
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{part}: {status} {said}");
        assert!(said.contains("met its own") && !said.contains("outlived"), "{part}: {said}");
    }
}

#[test]
fn whoever_had_the_signal_before_still_gets_it() {
    for (part, told) in [("plain, sent", 7), ("with information, sent", 1000), ("ignored, sent", 0)] {
        let (status, said) = run(part);
        assert!(status.success() && said.contains(&format!("told {told}\n")), "{part}: {status} {said}");
    }
}

/// Only as a child in a mount namespace of its own: a store to a hole of a full file system.
#[test]
fn child_on_a_full_file_system() {
    let Ok(directory) = std::env::var("NVSTACK_TEST_FULL") else { return };
    let (mapping, file) = mapped(&directory);
    assert_eq!(mapping.domain(), nvstack_media::Domain::Memory);
    let error = (0..SIZE / PAGE).find_map(|page| mapping.store(at(page * PAGE), &[1; 100]).err()).unwrap();
    assert_eq!(error.kind(), Kind::NoSpace, "{error}");
    assert!(error.to_string().contains("full"), "{error}");
    let full = error.offset().unwrap();
    mapping.stream(full, &[1; 100]).unwrap_err();
    // What has its page works on; what is given up makes room.
    mapping.store(at(0), &[2; 4096]).unwrap();
    mapping.zero(at(0), full.0).unwrap();
    mapping.store(full, &[3; 100]).unwrap();
    drop(file);
    println!("\nsurvived");
}

#[test]
fn a_store_to_a_hole_of_a_full_file_system_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=128k none \"$NVSTACK_TEST_FULL\" || exit 99; exec \"$0\" \"$@\"";
    let child = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_on_a_full_file_system", "--nocapture"])
        .env("NVSTACK_TEST_FULL", directory.path())
        .output();
    match child {
        Ok(child) if child.status.success() => {
            assert!(String::from_utf8_lossy(&child.stdout).contains("survived"), "{child:?}");
        }
        // Neither the test nor the code is at fault where the system allows no mount to anybody.
        Ok(child)
            if child.status.code() == Some(99)
                || child.stdout.is_empty() && child.status.code() == Some(1) =>
        {
            eprintln!(
                "not run, for a mount namespace is refused: {}",
                String::from_utf8_lossy(&child.stderr)
            );
        }
        Err(error) => eprintln!("not run, for there is no `unshare`: {error}"),
        Ok(child) => panic!("{child:?}"),
    }
}
