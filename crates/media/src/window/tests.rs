// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every routine of every kind of CPU, against a plain array.

use std::cell::RefCell;
use std::os::unix::fs::FileExt;

use super::*;
use crate::arch::variants;

const SIZE: usize = 4096;

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|n| ((n + seed) * 131 + (n >> 8) + 7) as u8).collect()
}

/// Anonymous memory with each kind of routine, where stores are cached and where they are streamed.
fn windows() -> impl Iterator<Item = (String, Window)> {
    variants().into_iter().flat_map(|(name, routines)| {
        [Domain::Memory, Domain::Cache].map(|domain| {
            let mut window = Window::anonymous(SIZE as u64).unwrap();
            (window.routines, window.domain) = (routines, domain);
            (format!("{name}, {domain}"), window)
        })
    })
}

#[test]
fn the_best_routines_are_among_those_tested() {
    let last = variants().pop().unwrap().1;
    let chosen = arch::routines();
    assert_eq!(chosen.stream as usize, last.stream as usize);
    assert_eq!(chosen.copy as usize, last.copy as usize);
    assert_eq!(chosen.flush as usize, last.flush as usize);
}

#[test]
fn copies_move_exactly_their_bytes_at_every_alignment_and_length() {
    type Op = fn(&Window, MediaOffset, &[u8]) -> Result<()>;
    let ops: [(&str, Op); 2] = [("store", Window::store), ("stream", Window::stream)];
    for (name, window) in windows() {
        let mut model = pattern(1, SIZE);
        window.store(MediaOffset(0), &model).unwrap();
        let mut now = vec![0; SIZE];
        for (op_name, op) in ops {
            for at in 1000..1000 + 64 {
                for len in (0..300).chain([511, 512, 513, 575, 576, 577, 800]) {
                    // The source's alignment goes through all values too.
                    let from = &pattern(at * 301 + len, len + 64)[at * 7 % 64..][..len];
                    op(&window, MediaOffset(at as u64), from).unwrap();
                    model[at..at + len].copy_from_slice(from);
                    // All that one of these could spoil, and now and then everything.
                    let (lo, hi) = if len == 800 { (0, SIZE) } else { (900, 2000) };
                    window.read(MediaOffset(lo as u64), &mut now[lo..hi]).unwrap();
                    assert!(now[lo..hi] == model[lo..hi], "{name}: {op_name} of {len} bytes at {at}");
                }
            }
        }
    }
}

#[test]
fn reads_move_exactly_their_bytes_at_every_alignment_and_length() {
    for (name, window) in windows() {
        let model = pattern(2, SIZE);
        window.store(MediaOffset(0), &model).unwrap();
        for at in 500..500 + 64 {
            for len in (0..300).chain([511, 512, 513, 575, 576, 577, 800]) {
                let mut into = vec![0xaa; len + 80];
                let start = at * 5 % 64 + 8;
                window.read(MediaOffset(at as u64), &mut into[start..start + len]).unwrap();
                assert!(into[start..start + len] == model[at..at + len], "{name}: {len} bytes at {at}");
                assert!(
                    into[..start].iter().chain(&into[start + len..]).all(|b| *b == 0xaa),
                    "{name}: spill"
                );
            }
        }
    }
}

#[test]
fn zeroing_touches_exactly_its_bytes_at_every_alignment_and_length() {
    for (name, window) in windows() {
        let full = vec![0xff; SIZE];
        for at in 700..700 + 64 {
            for len in (0..300).chain([511, 512, 513, 575, 576, 577, 800]) {
                window.store(MediaOffset(600), &full[..600]).unwrap();
                window.zero(MediaOffset(at as u64), len as u64, |_| unreachable!()).unwrap();
                let mut now = vec![0; 600];
                window.read(MediaOffset(600), &mut now).unwrap();
                let zeroed = at - 600..at - 600 + len;
                let right = now.iter().enumerate().all(|(n, b)| (*b == 0) == zeroed.contains(&n));
                assert!(right, "{name}: {len} bytes at {at}");
            }
        }
    }
}

#[test]
fn large_copies_and_zeroes_agree_with_the_model() {
    for (name, routines) in variants() {
        let mut window = Window::anonymous(1 << 20).unwrap();
        (window.routines, window.domain) = (routines, Domain::Cache);
        for (at, len) in [(0, 1 << 20), (1, (1 << 20) - 2), (12_345, 300_000), (63, 4096), (64, 4161)] {
            let from = pattern(at, len);
            window.stream(MediaOffset(at as u64), &from).unwrap();
            let mut now = vec![0; len];
            window.read(MediaOffset(at as u64), &mut now).unwrap();
            assert!(now == from, "{name}: {len} bytes at {at}");
            window.zero(MediaOffset(at as u64), len as u64, |_| Ok(false)).unwrap();
            window.read(MediaOffset(at as u64), &mut now).unwrap();
            assert!(now.iter().all(|b| *b == 0), "{name}: {len} bytes at {at}");
        }
    }
}

thread_local! {
    /// What was flushed: the address of the first line, and of the end.
    static FLUSHED: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" fn record_flush(first: *const u8, end: *const u8) -> usize {
    FLUSHED.with_borrow_mut(|lines| lines.push((first.addr(), end.addr())));
    0
}

#[test]
fn what_was_streamed_needs_no_flush_and_its_ragged_ends_get_theirs() {
    let recording: &'static Routines =
        Box::leak(Box::new(Routines { flush: record_flush, ..*arch::routines() }));
    for domain in [Domain::Cache, Domain::Memory] {
        let mut window = Window::anonymous(SIZE as u64).unwrap();
        (window.routines, window.domain) = (recording, domain);
        let base = window.base.as_ptr().addr();
        for (at, len, lines) in [
            (0, 4096, vec![]),
            (64, 512, vec![]),
            (0, 0, vec![]),
            (1, 63, vec![0]),
            (0, 65, vec![64]),
            (10, 20, vec![0]),
            (60, 8, vec![0, 64]),
            (100, 520, vec![64, 576]),
        ] {
            let lines = if domain == Domain::Cache { lines } else { vec![] };
            let flushed = |done: Result<()>| {
                done.unwrap();
                let ranges = FLUSHED.take();
                assert!(ranges.iter().all(|(first, end)| first % LINE == 0 && end - first <= LINE));
                ranges.iter().map(|(first, _)| first - base).collect::<Vec<_>>()
            };
            assert_eq!(flushed(window.stream(MediaOffset(at), &vec![1; len])), lines, "{len} bytes at {at}");
            assert_eq!(
                flushed(window.zero(MediaOffset(at), len as u64, |_| Ok(false))),
                lines,
                "{len} bytes at {at}"
            );
            assert_eq!(flushed(window.store(MediaOffset(at), &vec![1; len])), [], "{len} bytes at {at}");
        }
        window.flush(MediaOffset(100), 520).unwrap();
        let whole = if domain == Domain::Cache { vec![(base + 64, base + 620)] } else { vec![] };
        assert_eq!(FLUSHED.take(), whole);
    }
}

#[test]
fn flushing_changes_nothing() {
    for (name, window) in windows() {
        let model = pattern(3, SIZE);
        window.store(MediaOffset(0), &model).unwrap();
        for (at, len) in [(0, 4096), (4095, 1), (63, 2), (100, 0), (64, 64), (1, 4095)] {
            window.flush(MediaOffset(at), len).unwrap();
        }
        window.fence();
        let mut now = vec![0; SIZE];
        window.read(MediaOffset(0), &mut now).unwrap();
        assert!(now == model, "{name}");
        assert_eq!(window.flush(MediaOffset(1), 4096).unwrap_err().kind(), Kind::OutOfRange, "{name}");
    }
}

#[test]
fn words_are_little_endian_and_aligned() {
    for (_, window) in windows() {
        window.store_u64(MediaOffset(8), 0x0102_0304_0506_0708).unwrap();
        let mut bytes = [0; 8];
        window.read(MediaOffset(8), &mut bytes).unwrap();
        assert_eq!(bytes, [8, 7, 6, 5, 4, 3, 2, 1]);
        window.store_u32(MediaOffset(12), 0xaabb_ccdd).unwrap();
        assert_eq!(window.load_u64(MediaOffset(8)).unwrap(), 0xaabb_ccdd_0506_0708);
        assert_eq!(window.load_u32(MediaOffset(8)).unwrap(), 0x0506_0708);
        for at in (1..8).map(MediaOffset) {
            assert_eq!(window.load_u64(at).unwrap_err().kind(), Kind::Invalid);
            assert_eq!(window.store_u64(at, 0).unwrap_err().kind(), Kind::Invalid);
            if at.0 != 4 {
                assert_eq!(window.load_u32(at).unwrap_err().kind(), Kind::Invalid);
                assert_eq!(window.store_u32(at, 0).unwrap_err().kind(), Kind::Invalid);
            }
        }
        assert_eq!(window.load_u64(MediaOffset(4096)).unwrap_err().kind(), Kind::OutOfRange);
        assert_eq!(window.load_u64(MediaOffset(0)).unwrap(), 0);
    }
}

#[test]
fn every_routine_faults_at_the_byte_that_is_gone() {
    const PAGES: u64 = 4;
    for (name, routines) in variants() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGES * PAGE).unwrap();
        let mut window = Window::of_file(&file, PAGES * PAGE, true, Domain::PageCache).unwrap();
        (window.routines, window.domain) = (routines, Domain::Cache);
        let edge = 2 * PAGE;
        file.set_len(edge).unwrap();
        let fault_at = |done: Result<()>, at: u64, op: &str| {
            let error = done.expect_err(&format!("{name}: {op}"));
            assert_eq!(
                (error.kind(), error.offset()),
                (Kind::Fault, Some(MediaOffset(at))),
                "{name}: {op}: {error}"
            );
        };
        // Wholly beyond the end; across it, with nothing, something and much before it.
        for before in [0u64, 1, 8, 63, 64, 65, 200, 1000] {
            let (at, len) = (MediaOffset(edge - before), 1500);
            fault_at(window.read(at, &mut vec![0; len]), edge, "read");
            fault_at(window.store(at, &pattern(0, len)), edge, "store");
            fault_at(window.stream(at, &pattern(0, len)), edge, "stream");
            fault_at(window.zero(at, len as u64, |_| unreachable!()), edge, "zero");
            fault_at(window.flush(at, len as u64), edge, "flush");
            // What lies before the end was moved.
            let mut kept = vec![1; before as usize];
            window.read(at, &mut kept).unwrap();
            assert!(kept.iter().all(|b| *b == 0), "{name}");
        }
        let word = MediaOffset(edge + 8);
        fault_at(window.load_u32(word).map(drop), word.0, "load_u32");
        fault_at(window.load_u64(word).map(drop), word.0, "load_u64");
        fault_at(window.store_u32(word, 1), word.0, "store_u32");
        fault_at(window.store_u64(word, 1), word.0, "store_u64");
        // The rest is as it was, and what comes back is there again.
        window.store(MediaOffset(0), &pattern(9, 8192)).unwrap();
        file.write_all_at(&pattern(4, 4096), edge).unwrap();
        let mut now = vec![0; 4096];
        window.read(MediaOffset(edge), &mut now).unwrap();
        assert_eq!(now, pattern(4, 4096));
    }
}

#[test]
fn a_fault_in_the_callers_buffer_is_not_blamed_on_the_medium() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(PAGE).unwrap();
    let lost = Window::of_file(&file, PAGE, true, Domain::PageCache).unwrap();
    let window = Window::anonymous(PAGE).unwrap();
    file.set_len(0).unwrap();
    // SAFETY: the bytes are mapped, and no compiled code reads them: they go to the routines, which may fault.
    let buffer = unsafe { std::slice::from_raw_parts(lost.base.as_ptr(), 4096) };
    let error = window.store(MediaOffset(0), buffer).unwrap_err();
    assert_eq!(error.kind(), Kind::Fault);
    assert!(error.to_string().contains("buffer"), "{error}");
}
