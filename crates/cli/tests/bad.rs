// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bad input: a clear error with path, offset, found and accepted values, nothing written, bounded memory, no panic.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;

use common::{Dir, Ran, command, harmless, run};

const READERS: [&[&str]; 5] = [
    &["list", "-BDRNXiuv"],
    &["read-infoblock", "-j"],
    &["read-labels", "-j"],
    &["serve", "--read-only", "--run", "true"],
    &["serve", "--run", "true"],
];

/// Runs each command on a path that must be refused by all of them.
fn refused(path: &Path, status: i32, words: &[&str]) {
    for args in READERS {
        let ran = run([&args[..1], &[path.to_str().unwrap()], &args[1..]].concat());
        assert_eq!((ran.status, ran.out.as_str()), (status, ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(path.to_str().unwrap()), "{args:?} does not name the file: {ran:?}");
        for word in words {
            assert!(ran.err.contains(word), "{args:?}: {word}: {ran:?}");
        }
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let dir = Dir::new();
    let empty = dir.path("empty.img");
    File::create(&empty).unwrap();
    refused(&empty, 234, &["an empty file", "accepted"]);
    let tiny = dir.path("tiny.img");
    std::fs::write(&tiny, vec![0; 4095]).unwrap();
    refused(&tiny, 234, &["4095 bytes", "accepted 4096"]);
    refused(dir.path(".").as_path(), 234, &["irectory"]);
    let fifo = dir.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refused(&fifo, 234, &["a FIFO", "accepted"]);
    let socket = dir.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    refused(&socket, 234, &["a socket", "accepted"]);
    refused(Path::new("/dev/null"), 234, &["a character device", "accepted"]);
    refused(&dir.path("missing"), 254, &["No such file"]);
}

#[test]
fn a_label_area_that_points_outside_is_refused() {
    let dir = Dir::new();
    let image = dir.fixture("golden/base-v1.2");
    for (size, word) in [("32896K", "less than the file's 33685504"), ("1T", "less than"), ("512", "1024")] {
        let ran = harmless("list", &image, &["--label-size", size]);
        assert_eq!((ran.status, ran.out.as_str()), (234, ""), "{size}: {ran:?}");
        assert!(ran.err.contains(word), "{size}: {ran:?}");
    }
    // Said to have no labels, its BTT is in the wrong place and not taken for raw bytes; said to have more, neither.
    for (size, len) in [("0", 33_685_504), ("256K", 33_685_504 - (256 << 10))] {
        let ran = harmless("list", &image, &["--label-size", size]);
        let one = &ran.json()[0];
        assert_eq!((&one["state"], &one["size"]), (&"disabled".into(), &len.into()), "{ran:?}");
        assert!(ran.err.contains("a BTT info block"), "{ran:?}");
        assert_eq!(harmless("serve", &image, &["--label-size", size, "--run", "true"]).status, 250);
    }
}

#[test]
fn a_truncated_image_is_never_served_as_something_else() {
    let dir = Dir::new();
    for name in ["base-v1.2", "base-v1.1", "base-nolabel", "base-v1.2-fsdax", "nolabel-fsdax-dev"] {
        let image = dir.fixture(&format!("golden/{name}"));
        let len = image.metadata().unwrap().len();
        // Without the last byte, without the label area, half of it, the info blocks alone.
        for cut in [len - 1, len - 4096, len - (128 << 10), len / 2, 12288, 8192] {
            File::options().write(true).open(&image).unwrap().set_len(cut).unwrap();
            let ran = harmless("list", &image, &[]);
            assert_eq!(ran.status, 0, "{name} {cut}: {ran:?}");
            let one = &ran.json()[0];
            // fsdax on a smaller medium is fsdax, with less data; Linux sees it so too.
            let shorter = name.contains("fsdax") && one["mode"] == "fsdax" && name.starts_with("nolabel");
            assert!(shorter || one["state"] == "disabled", "{name} {cut}: {ran:?}");
            assert!(shorter || ran.err.contains("at offset 0x"), "{name} {cut}: {ran:?}");
            let ran = harmless("serve", &image, &["--read-only", "--run", "exit 7"]);
            assert_eq!(ran.status == 7, shorter, "{name} {cut}: {ran:?}");
        }
    }
}

#[test]
fn a_file_that_may_only_be_read_is_read_and_not_served_for_writing() {
    let dir = Dir::new();
    let image = dir.fixture("golden/base-v1.2");
    let binary = dir.path("nvstack");
    std::fs::copy(env!("CARGO_BIN_EXE_nvstack"), &binary).unwrap();
    for (path, mode) in [(&image, 0o444), (&binary, 0o755), (&dir.path("."), 0o755)] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    // To the superuser no file is read-only.
    let root = rustix::process::geteuid().is_root();
    let as_nobody = |args: &[&str]| -> Ran {
        let mut c = std::process::Command::new(&binary);
        c.args(args).env_remove("XDG_RUNTIME_DIR");
        if root {
            c.uid(65534).gid(65534);
        }
        c.output().unwrap().into()
    };
    let path = image.to_str().unwrap();
    let ran = as_nobody(&["serve", path, "--run", "true"]);
    assert_eq!(ran.status, 243, "EACCES: {ran:?}");
    assert!(ran.err.contains(path), "{ran:?}");
    assert_eq!(as_nobody(&["serve", path, "--read-only", "--run", "true"]).status, 0);
    assert_eq!(as_nobody(&["list", path]).status, 0);
}

#[test]
fn a_huge_sparse_image_costs_nothing() {
    let dir = Dir::new();
    let image = dir.path("huge.img");
    let file = File::create(&image).unwrap();
    // As large as this file system has them.
    let size = [8u64 << 40, 1 << 40, 64 << 30].into_iter().find(|size| file.set_len(*size).is_ok()).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(run(["list", image.to_str().unwrap()]).json()[0]["size"], size);
    let script = "grep VmHWM /proc/$PPID/status";
    for args in [&["--read-only"][..], &[], &["--label-size", "1G"]] {
        let ran = run([&["serve", image.to_str().unwrap(), "--run", script], args].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
        let peak: u64 = ran.out.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(peak < 64 << 10, "{args:?}: {peak} KiB");
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// A generator of numbers that is the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Bytes changed at random where structures stand: whatever comes of it, it is an answer, and changes nothing.
#[test]
fn hostile_bytes_get_an_answer() {
    let dir = Dir::new();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for (name, places) in [
        // Info block, flog, backup; index blocks and labels.
        (
            "golden/base-v1.2",
            &[(0, 128), (33_533_952, 256), (33_550_336, 128), (33_554_432, 160), (33_554_944, 512)][..],
        ),
        ("golden/multi3-v1.1", &[(4096, 128), (201_326_592, 160), (201_327_104, 1024)]),
        ("golden/base-v1.2-fsdax", &[(4096, 96), (33_554_944, 512)]),
    ] {
        let image = dir.fixture(name);
        let path = image.to_str().unwrap();
        let file = File::options().read(true).write(true).open(&image).unwrap();
        for round in 0..40 {
            let (at, len) = places[usize::try_from(numbers.next(places.len() as u64)).unwrap()];
            let mut before = vec![0; len];
            file.read_exact_at(&mut before, at).unwrap();
            let mut bytes = before.clone();
            for _ in 0..=numbers.next(6) {
                let i = usize::try_from(numbers.next(len as u64)).unwrap();
                bytes[i] = [0, 0xff, 0x7f, numbers.next(256).to_le_bytes()[0]]
                    [usize::try_from(numbers.next(4)).unwrap()];
            }
            reseal(&file, at, &mut bytes);
            file.write_all_at(&bytes, at).unwrap();
            for args in READERS.iter().take(4) {
                let ran = run([&args[..1], &[path], &args[1..]].concat());
                assert!(ran.status >= 0 && ran.status != 101, "{name} {round} {args:?}: {ran:?}");
                assert!(!ran.err.contains("panicked"), "{name} {round} {args:?}: {ran:?}");
                assert!(ran.status == 0 || ran.err.contains("accepted"), "{name} {round} {args:?}: {ran:?}");
            }
            let mut after = vec![0; len];
            file.read_exact_at(&mut after, at).unwrap();
            assert_eq!(after, bytes, "{name} {round}");
            file.write_all_at(&before, at).unwrap();
        }
    }
}

/// Makes the checksum of a changed info block good again, so that more than the checksum is asked for.
fn reseal(file: &File, at: u64, bytes: &mut [u8]) {
    if at != 0 && at != 4096 {
        return;
    }
    let mut block = vec![0; 4096];
    file.read_exact_at(&mut block, at).unwrap();
    block[..bytes.len()].copy_from_slice(bytes);
    let sum = nvstack_format::fletcher64_without(&block, 4088);
    file.write_all_at(&sum.to_le_bytes(), at + 4088).unwrap();
}

#[test]
fn an_output_that_cannot_be_written_is_told_and_not_left_half_way() {
    let dir = Dir::new();
    let image = dir.fixture("golden/base-v1.2");
    let mut child = command(["read-labels", image.to_str().unwrap()]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ran: Ran = child.stdout(full).output().unwrap().into();
    assert_eq!(ran.status, 228, "{ran:?}");
    assert!(ran.err.contains("stdout"), "{ran:?}");
    let there = dir.path("there.bin");
    File::create(&there).unwrap().write_all(b"precious").unwrap();
    let ran = run(["read-labels", image.to_str().unwrap(), "-o", there.to_str().unwrap()]);
    assert_eq!((ran.status, std::fs::read(&there).unwrap().as_slice()), (239, &b"precious"[..]), "{ran:?}");
}
