// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file as a medium: what is accepted, what persists, what stays sparse.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nvstack_media::{Access, Anon, Domain, Kind, Mapping, Media, MediaOffset};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn at(offset: u64) -> MediaOffset {
    MediaOffset(offset)
}

/// A directory on the disk that holds the build, where the page cache stands between stores and the file.
fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A directory in memory.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn sparse(directory: &Path, size: u64) -> PathBuf {
    let path = directory.join("vm.img");
    File::create_new(&path).unwrap().set_len(size).unwrap();
    path
}

fn bytes_taken(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn what_cannot_be_mapped_is_refused_with_its_path_and_what_it_is() {
    let directory = on_disk();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("directory")).unwrap();
    let fifo = path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _listener = UnixListener::bind(path("socket")).unwrap();
    File::create_new(path("empty")).unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        for (path, kind, found) in [
            (path("directory"), Kind::Invalid, "directory"),
            (path("fifo"), Kind::Invalid, "FIFO"),
            (path("socket"), Kind::Invalid, "socket"),
            (path("empty"), Kind::Invalid, "empty file"),
            (path("missing"), Kind::NotFound, "No such file"),
            (PathBuf::from("/dev/zero"), Kind::Invalid, "character device"),
        ] {
            let error = Mapping::open(&path, access).unwrap_err();
            let message = error.to_string();
            assert_eq!(error.kind(), kind, "{message}");
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            let a_directory_for_writing = found == "directory" && message.contains("Is a directory");
            assert!(message.contains(found) || a_directory_for_writing, "{message}");
        }
    }
}

#[test]
fn a_file_that_is_open_for_reading_only_cannot_be_mapped_for_writing() {
    let directory = on_disk();
    let path = sparse(directory.path(), MIB);
    let error = Mapping::from_file(File::open(&path).unwrap(), &path, Access::ReadWrite).unwrap_err();
    assert_eq!(error.kind(), Kind::Permission, "{error}");
}

#[test]
fn the_domain_is_that_of_the_file_system() {
    let (disk, memory) = (on_disk(), in_memory());
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let mapping = |directory: &Path| {
            let _ = fs::remove_file(directory.join("vm.img"));
            Mapping::open(sparse(directory, MIB), access).unwrap()
        };
        assert_eq!(mapping(disk.path()).domain(), Domain::PageCache);
        assert_eq!(mapping(memory.path()).domain(), Domain::Memory);
    }
    assert_eq!(Anon::new(1).unwrap().domain(), Domain::Memory);
}

#[test]
fn stores_reach_the_file_and_the_file_is_read() {
    for directory in [on_disk(), in_memory()] {
        let path = sparse(directory.path(), MIB + 5);
        let file = File::options().write(true).read(true).open(&path).unwrap();
        file.write_all_at(b"before", 100).unwrap();
        let mapping = Mapping::open(&path, Access::ReadWrite).unwrap();
        assert_eq!((mapping.len(), mapping.read_only()), (MIB + 5, false));
        let mut six = [0; 6];
        mapping.read(at(100), &mut six).unwrap();
        assert_eq!(&six, b"before");
        mapping.store(at(MIB), b"tail!").unwrap();
        mapping.stream(at(4000), &[7; 300]).unwrap();
        mapping.store_u64(at(8192), 0x1122).unwrap();
        mapping.persist(at(0), MIB + 5).unwrap();
        drop(mapping);
        let held = fs::read(&path).unwrap();
        assert_eq!(&held[MIB as usize..], b"tail!");
        assert!(held[4000..4300].iter().all(|b| *b == 7) && held[3999] == 0 && held[4300] == 0);
        assert_eq!(held[8192..8200], [0x22, 0x11, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn nothing_moves_outside_the_medium() {
    let directory = on_disk();
    let mapping = Mapping::open(sparse(directory.path(), 5000), Access::ReadWrite).unwrap();
    let far = [(4999, 2), (5000, 1), (5001, 0), (u64::MAX, 1), (u64::MAX - 8, 64), (0, 5001)];
    for (offset, len) in far {
        let bytes = vec![1u8; len as usize];
        for error in [
            mapping.read(at(offset), &mut vec![0; len as usize]).unwrap_err(),
            mapping.store(at(offset), &bytes).unwrap_err(),
            mapping.stream(at(offset), &bytes).unwrap_err(),
            mapping.zero(at(offset), len).unwrap_err(),
            mapping.flush(at(offset), len).unwrap_err(),
            mapping.extent(at(offset), len).unwrap_err(),
            mapping.inject_poison(at(offset), len).unwrap_err(),
            mapping.clear_poison(at(offset), len).unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.offset()), (Kind::OutOfRange, Some(at(offset))), "{error}");
            assert!(error.to_string().contains("vm.img"), "{error}");
        }
    }
    mapping.read(at(5000), &mut []).unwrap();
    let mut all = vec![9; 5000];
    mapping.read(at(0), &mut all).unwrap();
    assert!(all.iter().all(|b| *b == 0));
}

#[test]
fn a_read_only_medium_refuses_every_store_and_changes_nothing() {
    let directory = on_disk();
    let path = sparse(directory.path(), MIB);
    let before = fs::metadata(&path).unwrap();
    let mapping = Mapping::open(&path, Access::ReadOnly).unwrap();
    assert!(mapping.read_only());
    for error in [
        mapping.store(at(0), b"x").unwrap_err(),
        mapping.stream(at(0), b"x").unwrap_err(),
        mapping.zero(at(0), 1).unwrap_err(),
        mapping.zero(at(0), MIB).unwrap_err(),
        mapping.store_u32(at(0), 1).unwrap_err(),
        mapping.store_u64(at(0), 1).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::ReadOnly, "{error}");
        assert!(error.to_string().contains("vm.img"), "{error}");
    }
    mapping.read(at(0), &mut [0; 4096]).unwrap();
    mapping.persist(at(0), MIB).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((before.mtime_nsec(), before.blocks()), (after.mtime_nsec(), after.blocks()));
}

#[test]
fn a_terabyte_opens_at_once_and_takes_no_space() {
    for directory in [on_disk(), in_memory()] {
        let path = sparse(directory.path(), 1 << 40);
        let mapping = Mapping::open(&path, Access::ReadWrite).unwrap();
        mapping.zero(at(0), 1 << 40).unwrap();
        mapping.drain().unwrap();
        assert_eq!(bytes_taken(&path), 0);
        mapping.store(at((1 << 40) - 1), b"x").unwrap();
        mapping.drain().unwrap();
        assert!(bytes_taken(&path) <= 64 * 1024);
    }
    let memory = Anon::new(1 << 40).unwrap();
    memory.store(at((1 << 40) - 1), b"x").unwrap();
    memory.zero(at(1), (1 << 40) - 1).unwrap();
    assert_eq!(memory.load_u64(at((1 << 40) - 8)).unwrap(), 0);
}

#[test]
fn zeroing_gives_up_blocks_and_no_byte_outside() {
    for (directory, cache) in
        [(on_disk(), false), (in_memory(), false), (on_disk(), true), (in_memory(), true)]
    {
        let path = sparse(directory.path(), MIB + 100);
        let mapping = Mapping::open(&path, Access::ReadWrite).unwrap();
        let mapping = if cache { mapping.assume_cache() } else { mapping };
        let full = vec![0xee; (MIB + 100) as usize];
        // Below and above the size from which blocks are given up; ragged, aligned, and up to the odd end of the file.
        for (offset, len) in
            [(1, 10), (4096, 4096), (5000, 40_000), (4096, 512 * 1024), (4097, 600_000), (0, MIB + 100)]
        {
            mapping.store(at(0), &full).unwrap();
            mapping.persist(at(0), MIB + 100).unwrap();
            let taken = bytes_taken(&path);
            mapping.zero(at(offset), len).unwrap();
            mapping.drain().unwrap();
            // Before it is read: on tmpfs a page that is read through a mapping takes its space again.
            let given_up = taken.saturating_sub(bytes_taken(&path));
            let mut now = full.clone();
            mapping.read(at(0), &mut now).unwrap();
            let inside = offset as usize..(offset + len) as usize;
            assert!(now.iter().enumerate().all(|(n, b)| *b == if inside.contains(&n) { 0 } else { 0xee }));
            assert!(
                given_up >= if len > 100_000 { len - 8192 } else { 0 },
                "{len} bytes: {given_up} given up"
            );
        }
    }
}

#[test]
fn zeroing_a_hole_takes_no_space() {
    for directory in [on_disk(), in_memory()] {
        let path = sparse(directory.path(), MIB);
        let mapping = Mapping::open(&path, Access::ReadWrite).unwrap();
        for (offset, len) in [(0, MIB), (4096, 4096), (1000, 50_000), (0, 65_536)] {
            mapping.zero(at(offset), len).unwrap();
            mapping.drain().unwrap();
            assert_eq!(bytes_taken(&path), 0, "{len} bytes at {offset}");
        }
    }
}

#[test]
fn zeroing_sees_stores_that_have_not_reached_the_disk() {
    let directory = on_disk();
    let path = sparse(directory.path(), MIB);
    let mapping = Mapping::open(&path, Access::ReadWrite).unwrap();
    for page in 0..16 {
        // A hole a moment ago, and a dirty page of the page cache now: it must not be taken for a hole.
        mapping.store(at(page * 65_536 + 5000), b"secret").unwrap();
        mapping.zero(at(page * 65_536), 16_384).unwrap();
        let mut six = [1; 6];
        mapping.read(at(page * 65_536 + 5000), &mut six).unwrap();
        assert_eq!(six, [0; 6]);
    }
}

#[test]
fn extents_tell_data_from_holes_and_never_call_data_a_hole() {
    for directory in [on_disk(), in_memory()] {
        let mapping = Mapping::open(sparse(directory.path(), MIB), Access::ReadWrite).unwrap();
        let whole = mapping.extent(at(0), MIB).unwrap();
        assert_eq!((whole.at, whole.len, whole.hole), (at(0), MIB, true));
        mapping.store(at(256 * 1024), &[1; 64 * 1024]).unwrap();
        let mut told = Vec::new();
        let mut from = 100;
        while from < MIB {
            let run = mapping.extent(at(from), MIB - from).unwrap();
            assert!(run.at == at(from) && run.len > 0);
            told.push((run.at.0, run.len, run.hole));
            from += run.len;
        }
        let stored = 256 * 1024..320 * 1024;
        for (start, len, _) in told.iter().filter(|run| run.2) {
            assert!(*start >= stored.end || start + len <= stored.start, "{told:?}");
        }
        assert_eq!(told.iter().map(|run| run.2).collect::<Vec<_>>(), [true, false, true], "{told:?}");
        assert_eq!(mapping.extent(at(300 * 1024), 10).unwrap().len, 10);
    }
    let memory = Anon::new(MIB).unwrap();
    assert!(!memory.extent(at(0), MIB).unwrap().hole);
}

/// Bytes of a mapping of `path` that are dirty in this process's page tables, as the kernel tells.
fn dirty_bytes(path: &Path) -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let name = path.to_str().unwrap();
    let entry = smaps.lines().skip_while(|line| !line.ends_with(name)).skip(1);
    let kilobytes = entry
        .take_while(|line| !line.starts_with("VmFlags"))
        .filter(|line| line.starts_with("Shared_Dirty:") || line.starts_with("Private_Dirty:"))
        .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap());
    kilobytes.sum::<u64>() * 1024
}

#[test]
fn a_drain_leaves_no_page_dirty() {
    let directory = on_disk();
    let path = sparse(directory.path(), 64 * MIB);
    let mapping = Mapping::open(&path, Access::ReadWrite).unwrap();
    for round in 0..3 {
        for n in 0..200 {
            mapping.store(at(n * 300_000 + round * 5000), b"scattered").unwrap();
        }
        mapping.store_u32(at(8), 1).unwrap();
        mapping.stream(at(64 * MIB - 1000), &[1; 1000]).unwrap();
        mapping.zero(at(4096), 3).unwrap();
        assert!(dirty_bytes(&path) >= 200 * 4096);
        mapping.drain().unwrap();
        assert_eq!(dirty_bytes(&path), 0);
    }
}

#[test]
fn assumed_persistence_streams_and_hands_nothing_to_msync() {
    let directory = on_disk();
    let path = sparse(directory.path(), MIB);
    let mapping = Mapping::open(&path, Access::ReadWrite).unwrap().assume_cache();
    assert_eq!(mapping.domain(), Domain::Cache);
    mapping.stream(at(100), &[5; 5000]).unwrap();
    mapping.persist(at(0), MIB).unwrap();
    assert!(dirty_bytes(&path) > 0);
    assert!(fs::read(&path).unwrap()[100..5100].iter().all(|b| *b == 5));
}

#[test]
fn an_anonymous_medium_needs_a_length_that_fits() {
    assert_eq!(Anon::new(0).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(Anon::new(u64::MAX).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(Anon::new(1 << 62).unwrap_err().kind(), Kind::NoMemory);
    let odd = Anon::new(100).unwrap();
    assert_eq!(odd.store(at(99), b"ab").unwrap_err().kind(), Kind::OutOfRange);
    odd.store(at(98), b"ab").unwrap();
}
