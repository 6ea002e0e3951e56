// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole engine on a plain file: what a flush acknowledged is in the file.

use std::sync::Arc;

use loom::thread;
use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_media::Domain;

use super::engine::{read, write};
use super::medium::Words;
use crate::Btt;
use crate::ticker::Ticker;

fn device(sectors: u32, lanes: u32) -> (Words, Arc<Btt<Words>>) {
    let words = Words::new(sectors, lanes, Domain::PageCache);
    let btt = Arc::new(words.open());
    (words, btt)
}

fn with(
    (words, btt): &(Words, Arc<Btt<Words>>),
    work: impl FnOnce(&Words, &Btt<Words>) + 'static,
) -> thread::JoinHandle<()> {
    let (words, btt) = (words.clone(), Arc::clone(btt));
    thread::spawn(move || work(&words, &btt))
}

/// Two write and flush sectors of their own; each finds his own in the file then.
pub fn two_flushes() {
    let both = device(2, 2);
    let other = with(&both, |words, btt| {
        write(btt, 0, 1);
        btt.flush().unwrap();
        assert_eq!(words.recovered()[0], 1, "flushed");
    });
    write(&both.1, 1, 2);
    both.1.flush().unwrap();
    assert_eq!(both.0.recovered()[1], 2, "flushed");
    other.join().unwrap();
    assert_eq!(both.0.recovered(), [1, 2]);
}

/// Two write one sector, and flush. A write that comes while the sector is being committed goes elsewhere.
pub fn two_flushes_one_sector() {
    let both = device(2, 2);
    let other = with(&both, |words, btt| {
        write(btt, 0, 1);
        btt.flush().unwrap();
        assert_ne!(words.recovered()[0], 0, "flushed");
    });
    write(&both.1, 0, 2);
    both.1.flush().unwrap();
    assert_ne!(both.0.recovered()[0], 0, "flushed");
    other.join().unwrap();
    let end = read(&both.1, 0);
    both.1.flush().unwrap();
    assert_eq!(both.0.recovered()[0], end);
}

/// A flush by somebody else, while a sector is written again and again.
pub fn rewritten_while_flushed() {
    let both = device(2, 2);
    write(&both.1, 0, 1);
    let other = with(&both, |words, btt| {
        btt.flush().unwrap();
        assert!((1..=3).contains(&words.recovered()[0]), "flushed");
    });
    write(&both.1, 0, 2);
    write(&both.1, 0, 3);
    assert_eq!(read(&both.1, 0), 3);
    other.join().unwrap();
    both.1.flush().unwrap();
    assert_eq!((read(&both.1, 0), both.0.recovered()[0]), (3, 3));
}

/// Two write two sectors with one free block between them: whoever finds none commits what is there.
pub fn one_free_block() {
    let both = device(2, 1);
    let other = with(&both, |_, btt| write(btt, 0, 1));
    write(&both.1, 1, 2);
    other.join().unwrap();
    assert_eq!((read(&both.1, 0), read(&both.1, 1)), (1, 2));
    both.1.flush().unwrap();
    assert_eq!(both.0.recovered(), [1, 2]);
}

/// A sector that waits for its commit is made zero: the commit does not undo that.
pub fn zeroed_while_written() {
    let both = device(2, 2);
    write(&both.1, 0, 1);
    let other = with(&both, |words, btt| {
        btt.write_zeroes(Lba(0), 1, WriteFlags::FUA).unwrap();
        assert_ne!(words.recovered()[0], 1, "made zero");
    });
    write(&both.1, 0, 2);
    other.join().unwrap();
    let end = read(&both.1, 0);
    assert!(end == 0 || end == 2, "{end} at the end");
    both.1.flush().unwrap();
    assert_eq!(both.0.recovered()[0], end);
}

/// Two write and a third flushes and reads: what he reads after his flush he would find after a power cut, or newer.
pub fn two_writers_and_a_flush() {
    let both = device(2, 2);
    let writers: Vec<_> = (0..2)
        .map(|sector| with(&both, move |_, btt| (1..=2).for_each(|value| write(btt, sector, value))))
        .collect();
    let seen = [read(&both.1, 0), read(&both.1, 1)];
    both.1.flush().unwrap();
    let kept = both.0.recovered();
    assert!(seen.iter().zip(&kept).all(|(seen, kept)| seen <= kept), "{seen:?} was read, {kept:?} is kept");
    for writer in writers {
        writer.join().unwrap();
    }
    both.1.flush().unwrap();
    assert_eq!(both.0.recovered(), [2, 2]);
}

/// A device with the thread that commits, which is ended at any moment. Nobody is left waiting.
pub fn ended_ticker() {
    let both = device(2, 2);
    let ticker = Ticker::start(&both.1).unwrap();
    write(&both.1, 0, 1);
    drop(ticker);
    assert_eq!(read(&both.1, 0), 1);
}

/// The same, while somebody flushes: his commit leaves nothing to do, and takes no word from the one that ends away.
pub fn ended_ticker_while_flushed() {
    let both = device(2, 2);
    let ticker = Ticker::start(&both.1).unwrap();
    let other = with(&both, |_, btt| btt.flush().unwrap());
    drop(ticker);
    other.join().unwrap();
}

/// What nobody flushes reaches the file in the end.
pub fn patient_ticker() {
    crate::sync::thread::let_time_pass();
    let both = device(2, 2);
    let ticker = Ticker::start(&both.1).unwrap();
    write(&both.1, 0, 1);
    both.1.flush().unwrap();
    write(&both.1, 1, 2);
    while both.0.recovered() != [1, 2] {
        thread::yield_now();
    }
    drop(ticker);
}
