// SPDX-License-Identifier: MIT OR Apache-2.0
//! Media that fail: each call of each change of labels, one after the other. Whatever fails is told, with the DIMM and the place;
//! the labels are the old ones or the new ones, for who goes on, for who opens them anew, and after a power cut; and a success
//! that comes later covers all that it says, though a flush before it failed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::ops::ControlFlow;

use common::sample;
use common::shape::{Shape, State, set, shapes, state};
use nvstack_faults::{Calls, Fault, Faults, Faulty, Moved, Rule, When, every};
use nvstack_format::guid::ClaimClass;
use nvstack_format::label::{Name, Version};
use nvstack_label::{LabelArea, LabelSet};
use nvstack_media::{Error, Kind, Media, MediaOffset, Part, Result};
use nvstack_sim::{Image, Model, SimMedium};
use nvstack_tally::tally;
use uuid::Uuid;

type Medium = Faulty<SimMedium>;
type Set<'a, 'm> = LabelSet<'a, Part<&'m Medium>>;

/// What a medium does to a flush that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Lines stay in the cache, and the next flush writes them.
    Cache,
    /// A page cache whose failures are final, as that of our mappings.
    Final,
    /// A page cache as the kernel has it: what failed once is forgotten.
    Forgetful,
}

impl After {
    const ALL: [After; 3] = [After::Cache, After::Final, After::Forgetful];

    fn medium(self, bytes: &[u8], faults: &Faults) -> Medium {
        let model = if self == After::Cache { Model::X86 } else { Model::Pages };
        let medium = Faulty::simulated(Image::from_bytes(bytes), faults, model);
        if self == After::Forgetful { medium.forgetful() } else { medium }
    }
}

/// The changes of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Create,
    Rename,
    Resize,
    Class,
    Uuid,
    Delete,
}

impl Change {
    const ALL: [Change; 6] =
        [Change::Create, Change::Rename, Change::Resize, Change::Class, Change::Uuid, Change::Delete];

    fn run<M: Media>(self, shape: Shape, set: &mut LabelSet<'_, M>) -> Result<()> {
        let own = Uuid::from_bytes([1; 16]);
        match self {
            Change::Create => set.write(&shape.namespace(9, "new", 32, 8)),
            Change::Rename => set.rename(own, Name::new("renamed").unwrap()),
            Change::Resize => set.resize(own, 4 * common::shape::MIB * shape.ways),
            Change::Class => set.set_class(own, ClaimClass::Btt2),
            Change::Uuid => set.write_as(Some(own), &shape.namespace(7, "old", 0, 8)),
            Change::Delete => set.delete(own),
        }
    }

    fn fits(self, shape: Shape) -> bool {
        self != Change::Class || shape.version == Version::V1_2
    }
}

/// What readers find, without settling anything.
fn read<M: Media>(shape: Shape, media: &M) -> State {
    shape.run(media, |set| state(&set.assemble().unwrap()))
}

/// One change of labels that stood, with what they are before and after it.
struct Scene {
    shape: Shape,
    change: Change,
    before: Vec<u8>,
    old: State,
    new: State,
}

impl Scene {
    fn all() -> Vec<Scene> {
        let mut scenes = Vec::new();
        for shape in shapes() {
            for change in Change::ALL.into_iter().filter(|change| change.fits(shape)) {
                // Areas of 1 KiB have room for little else.
                let beside = shape.area > 1024;
                for turns in 0..2 {
                    scenes.extend(Scene::new(shape, change, beside, turns));
                }
            }
        }
        scenes
    }

    /// `turns`: which of the index blocks is current.
    fn new(shape: Shape, change: Change, beside: bool, turns: usize) -> Option<Scene> {
        let one = (!matches!(change, Change::Create) || beside).then(|| shape.namespace(1, "old", 0, 8));
        let other = beside.then(|| shape.namespace(2, "beside", 16, 8));
        let all: Vec<_> = one.into_iter().chain(other).collect();
        let faults = Faults::new();
        let medium = After::Cache.medium(&shape.fresh(&all), &faults);
        if turns == 1 {
            // A deletion is one update, so the blocks take one turn.
            let spare = shape.namespace(5, "spare", 48, 8);
            shape.run(&medium, |set| set.write(&spare).and_then(|()| set.delete(spare.uuid))).ok()?;
        }
        let before = common::all(&medium);
        let old = read(shape, &medium);
        shape.run(&medium, |set| change.run(shape, set)).ok()?;
        let new = read(shape, &medium);
        assert_ne!(old, new, "{change:?}");
        Some(Scene { shape, change, before, old, new })
    }

    fn run(&self, set: &mut Set<'_, '_>) -> Result<()> {
        self.change.run(self.shape, set)
    }

    fn old_or_new(&self, found: &State, words: &str) {
        assert!(*found == self.old || *found == self.new, "{words}: {found:?}");
    }

    /// What any power cut leaves.
    fn cuts(&self, medium: &Medium, words: &str) -> u64 {
        let (given, _) = medium.cuts().unwrap().each(64, 1, |_, image| {
            let left = SimMedium::memory(image.clone(), Model::X86);
            self.old_or_new(&read(self.shape, &left), words);
            ControlFlow::<()>::Continue(())
        });
        given
    }

    /// What is durable for sure.
    fn durable(&self, medium: &Medium) -> State {
        read(self.shape, &SimMedium::memory(medium.durable().unwrap(), Model::X86))
    }
}

/// An error tells which DIMM it is about, and where on it.
fn names_its_place(error: &Error, words: &str) {
    let text = error.to_string();
    assert!(text.contains("DIMM ") && text.contains("at offset 0x"), "{words}: {text}");
}

/// Runs `check` with the change's N-th call to fail, for each N, on each kind of medium. It sets the rule when it is time.
fn each_call(
    scene: &Scene,
    calls: Calls,
    moved: Moved,
    mut check: impl FnMut(&Medium, After, Rule, &str),
) -> u64 {
    let mut runs = 0;
    for after in After::ALL {
        runs += every(|n| {
            let faults = Faults::new();
            let medium = after.medium(&scene.before, &faults);
            let Scene { shape, change, .. } = scene;
            let words = format!("{change:?} of {shape:?}, {after:?}: call {n} of {calls:?}, moved {moved:?}");
            check(&medium, after, Rule::new(calls, When::Nth(n)).moved(moved), &words);
            faults
        });
    }
    runs
}

#[test]
fn every_call_fails_once_and_the_same_handle_goes_on() {
    let (mut runs, mut images) = (0, 0);
    for scene in Scene::all() {
        for (calls, moved) in [
            (Calls::READS, Moved::Nothing),
            (Calls::WRITES, Moved::Nothing),
            (Calls::STORES, Moved::Half),
            (Calls::WRITES, Moved::All),
        ] {
            runs += each_call(&scene, calls, moved, |medium, after, rule, words| {
                let faults = medium.faults();
                let mut areas = scene.shape.parts(medium);
                let mut set = set(&mut areas);
                faults.add(rule);
                let done = scene.run(&mut set);
                faults.clear();
                let Err(error) = done else {
                    assert_eq!(faults.hits(), 0, "{words}: answered with success");
                    assert_eq!(scene.durable(medium), scene.new, "{words}");
                    return;
                };
                names_its_place(&error, words);
                scene.old_or_new(&state(&set.assemble().unwrap()), words);
                scene.old_or_new(&read(scene.shape, medium), words);
                images += scene.cuts(medium, words);
                let again = scene.run(&mut set);
                if after == After::Final && faults.last().unwrap().call == Calls::DRAIN {
                    assert!(again.is_err(), "{words}: a success after a final failure");
                    scene.old_or_new(&scene.durable(medium), words);
                    return;
                }
                again.unwrap_or_else(|e| panic!("{words}: {error}; and again: {e}"));
                assert_eq!(state(&set.assemble().unwrap()), scene.new, "{words}");
                assert_eq!(read(scene.shape, medium), scene.new, "{words}");
                assert_eq!(scene.durable(medium), scene.new, "{words}: acknowledged, and not durable");
            });
        }
    }
    println!("{runs} runs, {images} images");
    assert!(runs > 5000 && images > 20_000, "{runs} runs, {images} images");
    tally("faults", "label changes, one handle", "calls that failed", runs);
    tally("faults", "label changes, one handle", "crash images after a failure", images);
}

#[test]
fn every_call_fails_once_and_somebody_else_goes_on() {
    let mut runs = 0;
    for scene in Scene::all() {
        for moved in [Moved::Nothing, Moved::All] {
            // From the opening on: whoever opens an area that can't be read is told so, too.
            runs += each_call(&scene, Calls::MEDIUM, moved, |medium, after, rule, words| {
                let faults = medium.faults();
                faults.add(rule);
                let done = open(scene.shape, medium).and_then(|mut areas| scene.run(&mut set(&mut areas)));
                assert_eq!(done.is_err(), faults.hits() > 0, "{words}: {done:?}");
                faults.clear();
                let Some(hit) = faults.last() else { return };
                scene.old_or_new(&read(scene.shape, medium), words);
                scene.cuts(medium, words);
                let again = scene.shape.run(medium, |set| scene.run(set));
                match again {
                    Ok(()) => {}
                    Err(_) if after == After::Final && hit.call == Calls::DRAIN => {
                        return scene.old_or_new(&scene.durable(medium), words);
                    }
                    // It is deleted already, and that is so for good.
                    Err(e) => {
                        assert_eq!(
                            (scene.change, e.kind()),
                            (Change::Delete, Kind::NotFound),
                            "{words}: {e}"
                        );
                    }
                }
                assert_eq!(read(scene.shape, medium), scene.new, "{words}");
                assert_eq!(scene.durable(medium), scene.new, "{words}: acknowledged, and not durable");
            });
        }
    }
    assert!(runs > 5000, "{runs}");
    tally("faults", "label changes, opened anew", "calls that failed", runs);
}

fn open(shape: Shape, medium: &Medium) -> Result<Vec<LabelArea<Part<&Medium>>>> {
    (0..shape.ways)
        .map(|i| LabelArea::open(Part::new(medium, MediaOffset(i * shape.area), shape.area)?))
        .collect()
}

#[test]
fn every_nth_call_fails_for_every_n() {
    let mut tries = 0;
    for scene in Scene::all().iter().step_by(2) {
        for after in [After::Cache, After::Forgetful] {
            every(|n| {
                let faults = Faults::new();
                let medium = after.medium(&scene.before, &faults);
                let words = format!("{:?} of {:?}, {after:?}: every call {n}", scene.change, scene.shape);
                let mut areas = scene.shape.parts(&medium);
                faults.fail(Calls::WRITES, When::Every(n));
                let mut done = false;
                for _ in 0..4 {
                    tries += 1;
                    done |= scene.run(&mut set(&mut areas)).is_ok();
                    scene.old_or_new(&read(scene.shape, &medium), &words);
                    scene.cuts(&medium, &words);
                    if done {
                        assert_eq!(
                            scene.durable(&medium),
                            scene.new,
                            "{words}: acknowledged, and not durable"
                        );
                        break;
                    }
                }
                faults.clear();
                if !done {
                    scene.run(&mut set(&mut areas)).unwrap_or_else(|e| panic!("{words}: {e}"));
                }
                assert_eq!(scene.durable(&medium), scene.new, "{words}");
                faults
            });
        }
    }
    tally("faults", "label changes, every N-th call fails", "changes tried", tries);
}

/// What the last writer made was seen and not durable when it was killed, or when its last flush failed. The next one, who finds
/// it there, must not give up the older block, which alone is durable, before that is.
#[test]
fn the_first_change_builds_on_what_is_durable() {
    let mut images = 0;
    // Areas of 1 KiB have no room for this.
    let alone = Version::ALL.map(|version| Shape { ways: 1, area: 2048, version });
    for shape in shapes().into_iter().filter(|shape| shape.area > 1024).chain(alone) {
        let others = [shape.namespace(1, "old", 0, 8), shape.namespace(2, "older", 16, 8)];
        let ways =
            [(After::Cache, Calls::FLUSH), (After::Cache, Calls::DRAIN), (After::Forgetful, Calls::DRAIN)];
        for (after, lost) in ways {
            // The last durable change was one update, so that the older block has what no cut may bring back.
            let before = {
                let medium = After::Cache.medium(&shape.fresh(&others), &Faults::new());
                shape.run(&medium, |set| set.delete(others[1].uuid)).unwrap();
                common::all(&medium)
            };
            let drop_it = |set: &mut Set<'_, '_>| set.delete(others[0].uuid);
            let last = {
                let faults = Faults::new();
                let medium = after.medium(&before, &faults);
                shape.run(&medium, drop_it).unwrap();
                faults.count(lost)
            };
            let next = shape.namespace(3, "next", 24, 8);
            let [old, gone, new] = {
                let faults = Faults::new();
                let medium = after.medium(&before, &faults);
                let old = read(shape, &medium);
                shape.run(&medium, drop_it).unwrap();
                let gone = read(shape, &medium);
                shape.run(&medium, |set| set.write(&next)).unwrap();
                [old, gone, read(shape, &medium)]
            };
            every(|n| {
                let faults = Faults::new();
                let medium = after.medium(&before, &faults);
                faults.fail(lost, When::Nth(last));
                shape.run(&medium, drop_it).unwrap_err();
                faults.clear();
                assert_eq!(read(shape, &medium), gone);
                let hits = faults.hits();
                faults.fail(Calls::WRITES, When::From(n));
                let done = shape.run(&medium, |set| set.write(&next));
                faults.clear();
                medium.cuts().unwrap().each(256, n, |_, image| {
                    images += 1;
                    let found = read(shape, &SimMedium::memory(image.clone(), Model::X86));
                    assert!(
                        [&old, &gone, &new].contains(&&found),
                        "{shape:?}, {after:?}, cut {n}: {found:?}"
                    );
                    if done.is_ok() {
                        assert_eq!(found, new);
                    }
                    ControlFlow::<()>::Continue(())
                });
                // The fault that set the scene does not count.
                if faults.hits() > hits { faults } else { Faults::new() }
            });
        }
    }
    assert!(images > 1000, "{images}");
    tally("faults", "labels that were found, and not durable", "crash images", images);
}

#[test]
fn a_deletion_that_failed_is_not_found_only_when_it_is_durable() {
    for version in Version::ALL {
        for after in [After::Cache, After::Forgetful] {
            let faults = Faults::new();
            let mut area = LabelArea::init(after.medium(&[0; 4096], &faults), version).unwrap();
            area.write_namespace(&sample(0, "gone")).unwrap();
            let labels = |medium: &Medium| {
                let image = SimMedium::memory(medium.durable().unwrap(), Model::X86);
                LabelArea::open(image).unwrap().namespaces(1 << 40).unwrap().len()
            };
            faults.fail(Calls::DRAIN, When::From(1));
            let error = area.delete(sample(0, "").uuid).unwrap_err();
            assert_eq!((error.kind(), labels(area.media())), (Kind::Io, 1));
            // Nobody is to hear that it is not there while a cut would bring it back.
            assert_eq!(area.delete(sample(0, "").uuid).unwrap_err().kind(), Kind::Io);
            let mut fresh = LabelArea::open(area.media()).unwrap();
            assert_eq!(fresh.delete(sample(0, "").uuid).unwrap_err().kind(), Kind::Io);
            faults.clear();
            assert_eq!(labels(area.media()), 1);
            area.delete(sample(0, "").uuid).unwrap();
            assert_eq!(labels(area.media()), 0);
            assert_eq!(area.delete(sample(0, "").uuid).unwrap_err().kind(), Kind::NotFound);
            assert_eq!(area.delete(sample(1, "").uuid).unwrap_err().kind(), Kind::NotFound);
        }
    }
}

#[test]
fn initialising_fails_at_every_call() {
    let mut runs = 0;
    for version in Version::ALL {
        for after in After::ALL {
            for moved in [Moved::Nothing, Moved::Half, Moved::All] {
                runs += every(|n| {
                    let faults = Faults::new();
                    let medium = after.medium(&[0; 4096], &faults);
                    let words = format!("{version:?}, {after:?}, call {n}, moved {moved:?}");
                    faults.add(Rule::new(Calls::MEDIUM, When::Nth(n)).moved(moved));
                    let done = LabelArea::init(&medium, version).map(|_| ());
                    assert_eq!(done.is_err(), faults.hits() > 0, "{words}");
                    faults.clear();
                    if done.is_err() {
                        let area = LabelArea::open(&medium).unwrap();
                        assert_eq!(area.slots().unwrap(), [], "{words}");
                        let again = LabelArea::init(&medium, version);
                        if after == After::Final && faults.last().unwrap().call == Calls::DRAIN {
                            assert!(again.is_err(), "{words}");
                            return faults;
                        }
                        again.unwrap_or_else(|e| panic!("{words}: {e}"));
                    }
                    let durable = SimMedium::memory(medium.durable().unwrap(), Model::X86);
                    let area = LabelArea::open(durable).unwrap();
                    assert!(
                        area.version() == Some(version) && area.blocks().iter().all(Result::is_ok),
                        "{words}"
                    );
                    faults
                });
            }
        }
    }
    tally("faults", "label areas made", "calls that failed", runs);
}

#[test]
fn bytes_of_an_area_fail_at_every_call() {
    #[derive(Clone, Copy, Debug)]
    enum Raw {
        InitOver,
        Zero,
        Restore,
    }
    let mut runs = 0;
    for version in Version::ALL {
        let mut area = LabelArea::init(SimMedium::memory(Image::zeros(4096), Model::X86), version).unwrap();
        area.write_namespace(&sample(0, "older")).unwrap();
        let kept = common::all(area.media());
        area.write_namespace(&sample(0, "old")).unwrap();
        let before = common::all(area.media());
        let names = |media: &dyn Media| -> Option<Vec<String>> {
            let area = LabelArea::open(media).unwrap();
            area.index()?;
            Some(area.namespaces(1 << 40).unwrap().iter().map(|l| l.name.to_string()).collect())
        };
        for (raw, after) in
            [Raw::InitOver, Raw::Zero, Raw::Restore].into_iter().flat_map(|r| After::ALL.map(|a| (r, a)))
        {
            let ok: &[Option<Vec<String>>] = match raw {
                Raw::InitOver => &[Some(vec!["old".into()]), None, Some(vec![])],
                Raw::Zero => &[Some(vec!["old".into()]), None],
                Raw::Restore => &[Some(vec!["old".into()]), None, Some(vec!["older".into()])],
            };
            let run = |area: &mut LabelArea<&Medium>| match raw {
                Raw::InitOver => LabelArea::init_over(*area.media(), version).map(|new| *area = new),
                Raw::Zero => area.zero(MediaOffset(0), 4096),
                Raw::Restore => area.write_bytes(MediaOffset(0), &kept),
            };
            for moved in [Moved::Nothing, Moved::Half, Moved::All] {
                runs += every(|n| {
                    let faults = Faults::new();
                    let medium = after.medium(&before, &faults);
                    let words = format!("{raw:?}, {version:?}, {after:?}, call {n}, moved {moved:?}");
                    let mut area = LabelArea::open(&medium).unwrap();
                    faults.add(Rule::new(Calls::MEDIUM, When::Nth(n)).moved(moved));
                    let done = run(&mut area);
                    assert_eq!(done.is_err(), faults.hits() > 0, "{words}");
                    faults.clear();
                    let Err(error) = done else { return faults };
                    assert!(error.to_string().contains("at offset 0x"), "{words}: {error}");
                    assert!(ok.contains(&names(&medium)), "{words}: {:?}", names(&medium));
                    medium.cuts().unwrap().each(64, n, |_, image| {
                        let left = SimMedium::memory(image.clone(), Model::X86);
                        assert!(ok.contains(&names(&left)), "{words}: {:?}", names(&left));
                        ControlFlow::<()>::Continue(())
                    });
                    if after == After::Final && faults.last().unwrap().call == Calls::DRAIN {
                        assert!(run(&mut area).is_err(), "{words}");
                        return faults;
                    }
                    if n % 2 == 0 && !matches!(raw, Raw::InitOver) {
                        // A handle that was let down half-way knows what is there, not what was.
                        let there = names(&medium);
                        let changed = area.write_namespace(&sample(1, "next"));
                        assert_eq!(changed.is_ok(), there.is_some(), "{words}: {changed:?}");
                        let more = there.map(|mut names| {
                            names.push("next".into());
                            names
                        });
                        assert_eq!(names(&medium), more, "{words}");
                        return faults;
                    }
                    run(&mut area).unwrap_or_else(|e| panic!("{words}: {e}"));
                    let durable = SimMedium::memory(medium.durable().unwrap(), Model::X86);
                    assert_eq!(Some(&names(&durable)), ok.last(), "{words}");
                    faults
                });
            }
        }
    }
    tally("faults", "label areas overwritten", "calls that failed", runs);
}

/// Index blocks of 512 bytes, the unit in which bytes are lost, and two changes: the blocks say different things.
fn two_states(current: usize) -> Medium {
    let medium = After::Cache.medium(&vec![0; 256 << 10], &Faults::new());
    let mut area = LabelArea::init(&medium, Version::V1_1).unwrap();
    area.write_namespace(&sample(0, "one")).unwrap();
    area.write_namespace(&sample(1, "two")).unwrap();
    while area.index().unwrap().number() != current {
        area.delete(sample(0, "").uuid).unwrap();
    }
    medium
}

#[test]
fn a_lost_index_block_is_not_replaced_by_an_older_one() {
    for current in [0, 1] {
        let medium = two_states(current);
        let mut area = LabelArea::open(&medium).unwrap();
        let stood = area.namespaces(1 << 40).unwrap();
        let place = MediaOffset(512 * current as u64);
        medium.inject_poison(place, 1).unwrap();
        let error = area.reload().unwrap_err();
        assert_eq!((error.kind(), error.offset()), (Kind::Poison, Some(place)), "{error}");
        assert_eq!(area.namespaces(1 << 40).unwrap(), stood, "what was known stays");
        // A change that fails reads the blocks again; the next one then has no ground to stand on.
        medium.faults().add(Rule::new(Calls::DRAIN, When::From(2)));
        area.write_namespace(&sample(3, "next")).unwrap_err();
        medium.faults().clear();
    }
}

#[test]
fn who_finds_one_index_block_lost_reads_on_and_changes_nothing() {
    for lost in [0, 1] {
        for current in [0, 1] {
            let medium = two_states(current);
            let place = MediaOffset(512 * lost);
            medium.inject_poison(place, 1).unwrap();
            let mut area = LabelArea::open(&medium).unwrap();
            assert_eq!(area.index().unwrap().number() as u64, 1 - lost);
            let before = common::bytes(&medium, 512 * (1 - lost), 512);
            for done in [area.write_namespace(&sample(3, "next")), area.delete(sample(1, "").uuid)] {
                let error = done.unwrap_err();
                assert_eq!((error.kind(), error.offset()), (Kind::Poison, Some(place)), "{error}");
            }
            assert_eq!(common::bytes(&medium, 512 * (1 - lost), 512), before);
            assert!(medium.is_poisoned(place, 1), "nothing was healed");
            // It is told, and whoever says so gets on with the other one.
            assert!(area.check().unwrap().other.is_some());
            area.zero(place, 512).unwrap();
            area.write_namespace(&sample(3, "next")).unwrap();
            assert!(LabelArea::open(&medium).unwrap().blocks().iter().all(Result::is_ok));
        }
    }
}

#[test]
fn kinds_of_failures_are_told_as_they_are() {
    for kind in [Kind::Fault, Kind::Io, Kind::NoSpace, Kind::Gone, Kind::NoMemory] {
        let faults = Faults::new();
        let medium = After::Cache.medium(&[0; 4096], &faults);
        let mut area = LabelArea::init(&medium, Version::V1_2).unwrap();
        for calls in [Calls::STORE, Calls::FLUSH, Calls::DRAIN, Calls::READ] {
            faults.add(Rule::new(calls, When::Nth(1)).with(Fault::Error(kind)));
            let error = area.write_namespace(&sample(0, "x")).unwrap_err();
            assert_eq!(error.kind(), kind, "{calls:?}: {error}");
            faults.clear();
            area.write_namespace(&sample(0, "x")).unwrap();
        }
    }
}
