// SPDX-License-Identifier: MIT OR Apache-2.0
//! Media that fail: each call of laying out, attaching and recording, one after the other. What fails is told, with its place; what
//! is there is the old or the new, also after a cut; and what is said to be durable afterwards is.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{IoSlice, IoSliceMut};
use std::ops::ControlFlow;

use nvstack_block::{BlockDevice, Lba, WriteFlags};
use nvstack_faults::{Calls, Faults, Faulty, Moved, Rule, When, every};
use nvstack_media::{Kind as ErrorKind, Media, MediaOffset};
use nvstack_pfn::{
    CreateOptions, Descriptor, Kind, Mode, OpenOptions, PageFlags, Pages, Place, Probe, Recorded, create,
    probe,
};
use nvstack_sim::{Image, Model, SimMedium};
use nvstack_tally::tally;
use uuid::Uuid;

const SIZE: u64 = 4 << 20;
const PLACE: Place = Place { start: Some(0), size: SIZE };

type Medium = Faulty<SimMedium>;

fn options() -> CreateOptions {
    CreateOptions {
        kind: Kind::Fsdax,
        uuid: Uuid::from_u128(7),
        parent: Uuid::nil(),
        mode: Mode::Pmem,
        align: 4096,
        place: PLACE,
        overwrite: false,
    }
}

/// Media on which a failed flush has left all where it was, is final, or is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Cache,
    Final,
    Forgetful,
}

impl After {
    const ALL: [After; 3] = [After::Cache, After::Final, After::Forgetful];

    fn medium(self, image: &Image, faults: &Faults) -> Medium {
        let model = if self == After::Cache { Model::X86 } else { Model::Pages };
        let medium = Faulty::simulated(image.clone(), faults, model);
        if self == After::Forgetful { medium.forgetful() } else { medium }
    }
}

fn attach<M: Media>(media: M, read_only: bool) -> nvstack_media::Result<Pages<M>> {
    let mut options = OpenOptions::new("pmem0", Kind::Fsdax, Uuid::nil(), PLACE);
    options.read_only = read_only;
    Pages::open(media, options)
}

/// Whether an fsdax is there, which then is whole.
fn is_there(media: &dyn Media, words: &str) -> bool {
    match probe(&media, Kind::Fsdax, Uuid::nil(), PLACE).unwrap() {
        Probe::Found(info) => {
            assert_eq!(info.uuid, options().uuid, "{words}");
            let pages = attach(media, true).unwrap();
            assert_eq!(pages.descriptor(3).unwrap(), Recorded::Known(Descriptor::default()), "{words}");
            true
        }
        Probe::Absent(_) => false,
        other => panic!("{words}: {other:?}"),
    }
}

fn each_cut(medium: &Medium, mut look: impl FnMut(&SimMedium)) -> u64 {
    let (given, _) = medium.cuts().unwrap().each(64, 1, |_, image| {
        look(&SimMedium::memory(image.clone(), Model::X86));
        ControlFlow::<()>::Continue(())
    });
    given
}

#[test]
fn laying_out_fails_at_every_call() {
    // Garbage where the descriptors and the info block go.
    let mut junk = Image::zeros(SIZE);
    for at in (0..SIZE).step_by(256 << 10).chain([4096, 8192]) {
        junk.write(at, &[0xa5; 64]);
    }
    let (mut runs, mut images) = (0, 0);
    for (after, moved) in
        After::ALL.into_iter().flat_map(|a| [Moved::Nothing, Moved::Half, Moved::All].map(|m| (a, m)))
    {
        runs += every(|n| {
            let faults = Faults::new();
            let medium = after.medium(&junk, &faults);
            let words = format!("{after:?}, call {n}, moved {moved:?}");
            faults.add(Rule::new(Calls::MEDIUM, When::Nth(n)).moved(moved));
            let done = create(&medium, &options());
            assert_eq!(done.is_err(), faults.hits() > 0, "{words}");
            faults.clear();
            let Err(error) = done else {
                assert!(is_there(&SimMedium::memory(medium.durable().unwrap(), Model::X86), &words));
                return faults;
            };
            assert!(error.to_string().starts_with("simulated medium: "), "{words}: {error}");
            images += each_cut(&medium, |left| {
                is_there(left, &words);
            });
            let again = create(&medium, &options());
            if after == After::Final && faults.last().unwrap().call == Calls::DRAIN {
                assert!(again.is_err(), "{words}: a success after a final failure");
                return faults;
            }
            again.unwrap_or_else(|e| panic!("{words}: {error}; and again: {e}"));
            assert!(is_there(&medium, &words));
            assert!(is_there(&SimMedium::memory(medium.durable().unwrap(), Model::X86), &words), "{words}");
            faults
        });
    }
    assert!(runs > 50, "{runs}");
    tally("faults", "fsdax laid out", "calls that failed", runs);
    tally("faults", "fsdax laid out", "crash images after a failure", images);
}

fn laid_out() -> Image {
    let medium = SimMedium::memory(Image::zeros(SIZE), Model::X86);
    create(&medium, &options()).unwrap();
    medium.image()
}

fn said(owner: u64) -> Descriptor {
    Descriptor { flags: PageFlags::from_bits_retain(0x100), references: 3, owner, generation: 0 }
}

fn owner(recorded: Recorded) -> u64 {
    match recorded {
        Recorded::Known(descriptor) => descriptor.owner,
        Recorded::Unknown => panic!("unknown"),
    }
}

#[test]
fn recording_fails_at_every_call() {
    let image = laid_out();
    let (mut runs, mut images) = (0, 0);
    for (after, moved) in
        After::ALL.into_iter().flat_map(|a| [Moved::Nothing, Moved::Half, Moved::All].map(|m| (a, m)))
    {
        for earlier in 0..3 {
            runs += every(|n| {
                let faults = Faults::new();
                let medium = after.medium(&image, &faults);
                let words = format!("{after:?}, call {n}, moved {moved:?}, after {earlier}");
                let pages = attach(&medium, false).unwrap();
                for n in 0..earlier {
                    pages.set_descriptor(3, said(n + 1)).unwrap();
                }
                faults.add(Rule::new(Calls::MEDIUM, When::Nth(n)).moved(moved));
                let done = pages.set_descriptor(3, said(100));
                assert_eq!(done.is_err(), faults.hits() > 0, "{words}");
                faults.clear();
                if done.is_err() {
                    let ok = |found: u64| assert!([earlier, 100].contains(&found), "{words}: {found}");
                    ok(owner(pages.descriptor(3).unwrap()));
                    images += each_cut(&medium, |left| {
                        ok(owner(attach(left, true).unwrap().descriptor(3).unwrap()));
                    });
                    // The next change stands on what is not durable yet.
                    let again = pages.set_descriptor(3, said(200));
                    if after == After::Final && faults.last().unwrap().call == Calls::DRAIN {
                        assert!(again.is_err(), "{words}");
                        return faults;
                    }
                    again.unwrap();
                }
                let last = if done.is_ok() { 100 } else { 200 };
                let durable = SimMedium::memory(medium.durable().unwrap(), Model::X86);
                assert_eq!(owner(attach(&durable, true).unwrap().descriptor(3).unwrap()), last, "{words}");
                faults
            });
        }
    }
    assert!(runs > 40, "{runs}");
    tally("faults", "page descriptors", "calls that failed", runs);
    tally("faults", "page descriptors", "crash images after a failure", images);
}

/// The second of two changes is cut at each of its calls, where the first one failed at its last flush.
#[test]
fn a_change_that_stands_on_one_that_failed_is_old_or_new() {
    let image = laid_out();
    let mut images = 0;
    for after in [After::Cache, After::Forgetful] {
        for failing in 1..=2 {
            every(|n| {
                let faults = Faults::new();
                let medium = after.medium(&image, &faults);
                let pages = attach(&medium, false).unwrap();
                pages.set_descriptor(3, said(1)).unwrap();
                faults.fail(Calls::DRAIN, When::Nth(failing));
                pages.set_descriptor(3, said(2)).unwrap_err();
                faults.clear();
                let hits = faults.hits();
                faults.fail(Calls::WRITES, When::From(n));
                let done = pages.set_descriptor(3, said(3));
                faults.clear();
                images += each_cut(&medium, |left| {
                    let found = owner(attach(left, true).unwrap().descriptor(3).unwrap());
                    assert!(
                        found == 3 || done.is_err() && [1, 2].contains(&found),
                        "{after:?}, cut {n}: {found}"
                    );
                });
                if faults.hits() > hits { faults } else { Faults::new() }
            });
        }
    }
    tally("faults", "page descriptors on top of a failure", "crash images", images);
}

#[test]
fn a_failed_flush_of_the_disk_is_told_and_what_is_written_anew_is_durable() {
    let image = laid_out();
    for after in After::ALL {
        let faults = Faults::new();
        let medium = after.medium(&image, &faults);
        let disk = attach(&medium, false);
        let start = disk.as_ref().unwrap().data_range().start;
        let byte = || {
            let mut byte = [0];
            medium.durable().unwrap().read(start + 512, &mut byte);
            byte[0]
        };
        let pages = disk.unwrap();
        // A disk outlives what it borrows from only where that is shared.
        let write = |value: u8, flags| {
            pages.map(0, 4096).and_then(|mapped| {
                mapped.store(MediaOffset(512), &[value; 512])?;
                if flags == WriteFlags::FUA { mapped.persist(MediaOffset(512), 512) } else { Ok(()) }
            })
        };
        write(1, WriteFlags::FUA).unwrap();
        assert_eq!(byte(), 1);
        faults.fail(Calls::DRAIN, When::Nth(1));
        write(2, WriteFlags::FUA).unwrap_err();
        assert_eq!(byte(), 1);
        let again = write(3, WriteFlags::FUA);
        assert_eq!(again.is_err(), after == After::Final);
        assert_eq!(byte(), if again.is_ok() { 3 } else { 1 });
    }
}

#[test]
fn lost_bytes_cost_what_they_are_under_and_nothing_else() {
    let image = laid_out();
    let start = attach(SimMedium::memory(image.clone(), Model::X86), true).unwrap().data_range().start;
    let open = |at: u64, read_only| {
        let medium = std::sync::Arc::new(SimMedium::memory(image.clone(), Model::X86));
        medium.inject_poison(MediaOffset(at), 1).unwrap();
        (attach(std::sync::Arc::clone(&medium), read_only), medium)
    };
    // The info block.
    let error = open(4096, false).0.map(|_| ()).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Poison, Some(MediaOffset(4096))), "{error}");
    // A descriptor: read-only it is told, and the data are served; a writer makes it unknown, which heals it.
    let (pages, medium) = open(8192, true);
    let pages = pages.unwrap();
    let error = pages.descriptor(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poison, "{error}");
    assert_eq!(pages.descriptor(8).unwrap(), Recorded::Known(Descriptor::default()));
    let mut sector = [0; 512];
    pages.disk().unwrap().read(Lba(0), &mut [IoSliceMut::new(&mut sector)]).unwrap();
    assert!(medium.is_poisoned(MediaOffset(8192), 1));
    let (pages, medium) = open(8192, false);
    assert_eq!(pages.unwrap().descriptor(0).unwrap(), Recorded::Unknown);
    assert!(!medium.is_poisoned(MediaOffset(8192), 1));
    // Data: the sector, until it is written.
    let (pages, _) = open(start + 1024, false);
    let disk = pages.unwrap().disk().unwrap();
    for lba in 0..8 {
        let read = disk.read(Lba(lba), &mut [IoSliceMut::new(&mut sector)]);
        assert_eq!(read.is_err(), lba == 2, "{lba}");
        if let Err(e) = read {
            assert_eq!(e.kind(), ErrorKind::Poison, "{e}");
        }
    }
    disk.write(Lba(2), &[IoSlice::new(&[9; 512])], WriteFlags::empty()).unwrap();
    disk.read(Lba(2), &mut [IoSliceMut::new(&mut sector)]).unwrap();
    assert_eq!(sector, [9; 512]);
}
