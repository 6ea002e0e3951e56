// SPDX-License-Identifier: MIT OR Apache-2.0
//! A medium that fails as told, and knows what is durable.
#![allow(missing_docs, clippy::unwrap_used)]

use nvstack_faults::{Calls, Fault, Faults, Faulty, Moved, Rule, When};
use nvstack_media::{Anon, Domain, Kind, Media, MediaOffset};
use nvstack_sim::{Image, Model, SimMedium};

const AT: MediaOffset = MediaOffset(64);

fn byte(image: &Image) -> u8 {
    let mut byte = [0];
    image.read(AT.0, &mut byte);
    byte[0]
}

fn paged() -> SimMedium {
    SimMedium::memory(Image::zeros(8192), Model::Pages)
}

#[test]
fn a_fault_names_its_place_and_kind() {
    let faults = Faults::new();
    let media = Faulty::new(Anon::new(4096).unwrap(), &faults);
    faults.add(Rule::new(Calls::READ, When::Nth(1)).with(Fault::Error(Kind::Fault)));
    faults.add(Rule::new(Calls::STORE, When::Nth(1)).with(Fault::Errno(28)));
    let error = media.read(AT, &mut [0; 8]).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (Kind::Fault, Some(AT)));
    assert!(error.to_string().starts_with("memory of 4096 bytes: read at offset 0x40"), "{error}");
    assert_eq!(media.store(AT, &[1; 8]).unwrap_err().kind(), Kind::NoSpace);
    media.store(AT, &[1; 8]).unwrap();
    assert_eq!((faults.count(Calls::STORES), faults.hits()), (2, 2));
}

#[test]
fn a_failed_store_has_gone_as_far_as_told() {
    for (moved, expected) in
        [(Moved::Nothing, [0, 0, 0, 0]), (Moved::Half, [7, 7, 0, 0]), (Moved::All, [7, 7, 7, 7])]
    {
        let faults = Faults::new();
        let media = Faulty::shadowed(Anon::new(4096).unwrap(), &faults, Model::X86).unwrap();
        faults.add(Rule::new(Calls::STREAM, When::Nth(1)).moved(moved));
        media.stream(AT, &[7; 32]).unwrap_err();
        let words = |image: &Image| [8, 9, 10, 11].map(|unit| image.unit(unit) & 0xff);
        let seen = [0, 1, 2, 3].map(|i| media.load_u64(AT.plus(8 * i)).unwrap() & 0xff);
        assert_eq!((seen, words(&media.seen().unwrap())), (expected, expected));
        assert_eq!(words(&media.durable().unwrap()), [0; 4]);
        media.drain().unwrap();
        assert_eq!(words(&media.durable().unwrap()), expected);
    }
}

#[test]
fn what_is_durable_is_known() {
    let faults = Faults::new();
    let media = Faulty::shadowed(Anon::new(4096).unwrap().assume_cache(), &faults, Model::X86).unwrap();
    media.store(AT, &[1; 8]).unwrap();
    media.drain().unwrap();
    assert_eq!(byte(&media.durable().unwrap()), 0, "never flushed");
    faults.fail(Calls::FLUSH, When::Nth(1));
    media.persist(AT, 8).unwrap_err();
    media.drain().unwrap();
    assert_eq!(byte(&media.durable().unwrap()), 0, "its flush failed");
    faults.fail(Calls::DRAIN, When::Nth(1));
    media.persist(AT, 8).unwrap_err();
    assert_eq!(byte(&media.durable().unwrap()), 0, "its drain failed");
    assert_eq!(media.cuts().unwrap().count(), 2);
    media.drain().unwrap();
    assert_eq!(byte(&media.durable().unwrap()), 1);
    assert_eq!(media.domain(), Domain::Cache);
}

#[test]
fn a_failed_drain_of_a_page_cache_is_final() {
    let faults = Faults::new();
    let media = Faulty::shadowed(paged(), &faults, Model::Pages).unwrap();
    media.store(AT, &[1; 8]).unwrap();
    faults.fail(Calls::DRAIN, When::Nth(1));
    media.drain().unwrap_err();
    for again in [media.drain(), media.store(AT, &[2; 8])] {
        assert_eq!(again.unwrap_err().kind(), Kind::Io);
    }
    media.read(AT, &mut [0; 8]).unwrap();
    assert_eq!(byte(&media.durable().unwrap()), 0);
}

#[test]
fn a_forgetful_page_cache_answers_with_success_that_covers_nothing() {
    let faults = Faults::new();
    let media = Faulty::simulated(Image::zeros(8192), &faults, Model::Pages).forgetful();
    media.store(AT, &[1; 8]).unwrap();
    faults.fail(Calls::DRAIN, When::Nth(1));
    media.drain().unwrap_err();
    media.drain().unwrap();
    assert_eq!(byte(&media.durable().unwrap()), 0, "lost for good");
    media.store(AT, &[2; 8]).unwrap();
    media.drain().unwrap();
    assert_eq!(byte(&media.durable().unwrap()), 2, "written again");
}

#[test]
fn poison_is_shared_with_the_shadow_and_healing_can_fail() {
    let faults = Faults::new();
    let inner = Anon::new(4096).unwrap();
    inner.inject_poison(MediaOffset(1024), 1).unwrap();
    let media = Faulty::shadowed(inner, &faults, Model::X86).unwrap();
    media.inject_poison(MediaOffset(0), 1).unwrap();
    assert_eq!(media.durable().unwrap().lost(0, 4096), [(0, 1), (2, 1)]);
    faults.fail(Calls::HEAL, When::Nth(1));
    media.clear_poison(MediaOffset(0), 512).unwrap_err();
    assert!(media.is_poisoned(MediaOffset(0), 8));
    media.clear_poison(MediaOffset(0), 512).unwrap();
    assert!(!media.is_poisoned(MediaOffset(0), 8));
    assert_eq!(media.durable().unwrap().lost(0, 4096), [(2, 1)]);
}
