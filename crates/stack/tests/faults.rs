// SPDX-License-Identifier: MIT OR Apache-2.0
//! Media that fail under the device model: one bad DIMM or namespace costs itself alone, a store that fails leaves what was or
//! what was to be, and a teardown leaves nothing behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "sizes fit")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{MIB, allocate, bind, btt_seed, create, get, labels, open, ranges, read, refused, set, write};
use nvstack_block::Kind;
use nvstack_faults::{Calls, Fault, Faults, Faulty, Moved, Rule, When, every};
use nvstack_format::{SetMember, cookies};
use nvstack_media::{Anon, Media};
use nvstack_sim::{Image, Model, SimMedium};
use nvstack_stack::provider::QEMU_START;
use nvstack_stack::{BusSpec, DimmSpec, Identity, Idle, OpenOptions, Provider, RegionSpec, Stack, Tree};
use nvstack_tally::tally;

/// Longer than any probe takes, and not for ever.
const PATIENCE: Duration = Duration::from_secs(30);

fn anon(size: u64) -> Arc<dyn Media> {
    Arc::new(Anon::new(size).unwrap())
}

fn up(spec: BusSpec) -> (Stack, Tree) {
    let stack = Stack::new();
    stack.register(spec);
    stack.settle_within(PATIENCE).unwrap();
    let tree = stack.tree();
    (stack, tree)
}

/// A bus of DIMMs, each with its own region and labels.
fn dimms(media: &[Arc<dyn Media>], areas: &[Arc<dyn Media>]) -> BusSpec {
    let dimm = |n: usize| u32::try_from(n).unwrap();
    BusSpec {
        provider: Provider::Nfit,
        dimms: areas
            .iter()
            .enumerate()
            .map(|(n, area)| DimmSpec {
                identity: Some(Identity::qemu(dimm(n) + 1)),
                labels: Some(Arc::clone(area)),
                fault: None,
            })
            .collect(),
        regions: media
            .iter()
            .enumerate()
            .map(|(n, media)| {
                let start = QEMU_START + ((n as u64) << 30);
                RegionSpec::of_dimm(n, Arc::clone(media), start, cookies(&[SetMember::qemu(dimm(n))]))
            })
            .collect(),
        idle: Idle::default(),
    }
}

/// Uuid, class and size of each namespace, as another machine finds them.
fn found(spec: BusSpec) -> Vec<[String; 3]> {
    let (_stack, tree) = up(spec);
    let names = tree.list("region0").unwrap().into_iter().map(|(name, _)| name);
    let mut all: Vec<_> = names
        .filter(|name| name.starts_with("namespace0."))
        .map(|name| {
            ["uuid", "holder_class", "size"]
                .map(|a| tree.read(&format!("{name}/{a}")).unwrap_or_default().trim().to_owned())
        })
        .filter(|found| found[2] != "0")
        .collect();
    all.sort();
    all
}

#[test]
fn a_bad_label_area_costs_its_own_dimm() {
    let media: Vec<Arc<dyn Media>> = (0..3).map(|_| anon(64 * MIB)).collect();
    let areas: Vec<Arc<dyn Media>> = (0..3).map(|_| labels()).collect();
    {
        let (stack, tree) = up(dimms(&media, &areas));
        for n in 0..3u8 {
            let (ns, _) = create(&tree, &format!("region{n}"), "sector", u128::from(n) + 1, 32 * MIB);
            write(&*open(&stack, &ns), 5, n + 1).unwrap();
        }
    }
    let runs = every(|n| {
        let faults = Faults::new();
        faults.fail(Calls::READS, When::Nth(n));
        let mut areas = areas.clone();
        areas[1] = Arc::new(Faulty::new(Arc::clone(&areas[1]), &faults));
        let (stack, tree) = up(dimms(&media, &areas));
        for healthy in [0u8, 2] {
            let disk = open(&stack, &format!("namespace{healthy}.0"));
            assert_eq!(read(&*disk, 5).unwrap()[0], healthy + 1, "call {n}");
        }
        if faults.hits() > 0 {
            // Told by the DIMM and by its region, which both come up when they are asked again.
            let error = get(&tree, "nmem1/nvstack/error");
            assert!(error.contains("memory of 131072 bytes: read at offset 0x"), "call {n}: {error}");
            let error = get(&tree, "region1/nvstack/error");
            assert!(error.contains("nmem1"), "call {n}: {error}");
            assert!(tree.entry("region1/namespace1.0").is_err());
            bind(&tree, "nmem1").unwrap();
            bind(&tree, "region1").unwrap();
            stack.settle_within(PATIENCE).unwrap();
        }
        assert_eq!(read(&*open(&stack, "namespace1.0"), 5).unwrap()[0], 2, "call {n}");
        faults
    });
    assert!(runs > 3, "{runs}");
    tally("faults", "label areas read by a machine", "calls that failed", runs);
}

#[test]
fn a_bad_namespace_costs_itself() {
    let media: Vec<Arc<dyn Media>> = (0..3).map(|_| anon(32 * MIB)).collect();
    {
        let (stack, tree) = up(ranges(media.clone()));
        for (n, mode) in [(0u8, "sector"), (1, "sector"), (2, "fsdax")] {
            // A region without labels is one namespace.
            common::unbind(&tree, &format!("namespace{n}.0")).unwrap();
            let (class, seed) = if mode == "sector" { ("btt", "btt") } else { ("pfn", "pfn") };
            let seed = get(&tree, &format!("region{n}/{seed}_seed"));
            tree.write(&format!("{seed}/uuid"), &uuid::Uuid::from_u128(u128::from(n) + 9).to_string())
                .unwrap();
            match class {
                "btt" => tree.write(&format!("{seed}/sector_size"), "4096").unwrap(),
                _ => tree.write(&format!("{seed}/mode"), "pmem").unwrap(),
            }
            tree.write(&format!("{seed}/namespace"), &format!("namespace{n}.0")).unwrap();
            bind(&tree, &seed).unwrap();
            write(&*open(&stack, &format!("namespace{n}.0")), 5, n + 1).unwrap();
        }
    }
    let mut runs = 0;
    for bad in 0..3usize {
        runs += every(|n| {
            let faults = Faults::new();
            faults.fail(Calls::READS | Calls::EXTENT, When::Nth(n));
            let mut media = media.clone();
            media[bad] = Arc::new(Faulty::new(Arc::clone(&media[bad]), &faults));
            let stack = Stack::new();
            let id = stack.register(ranges(media.clone()));
            stack.settle_within(PATIENCE).unwrap();
            let tree = stack.tree();
            let hit = faults.hits() > 0;
            for region in 0..3usize {
                let name = format!("namespace{region}.0");
                let sector = || read(&*stack.open(&name, &OpenOptions::default())?, 5);
                let first = sector();
                if region == bad && hit && first.as_ref().is_err_and(|e| e.kind() == Kind::NoDevice) {
                    // Met by the probe: it stays without a driver until it is asked for again.
                    refused(first, Kind::NoDevice, &[&name, "a fault, as told"]);
                    let error = get(&tree, &format!("{name}/nvstack/error"));
                    assert!(error.contains("a fault, as told"), "call {n}: {error}");
                    // As in Linux that ends with an error where a claim comes up in its stead.
                    let _ = bind(&tree, &name);
                    stack.settle_within(PATIENCE).unwrap();
                } else if region == bad && faults.hits() > 0 && first.is_err() {
                    // Met by the engine, which is opened with the disk.
                    refused(first, Kind::Io, &["memory of 33554432 bytes", "a fault, as told"]);
                } else {
                    assert_eq!(first.unwrap()[0], region as u8 + 1, "{bad}, call {n}");
                }
                // The fault may come only now; it comes once.
                let again = sector().or_else(|e| if region == bad { sector() } else { Err(e) });
                assert_eq!(again.unwrap()[0], region as u8 + 1, "{bad}, call {n}: again");
            }
            stack.unregister(id).unwrap();
            assert!(tree.list("bus/nd/devices").unwrap().is_empty());
            faults
        });
    }
    assert!(runs > 10, "{runs}");
    tally("faults", "namespaces probed by a machine", "calls that failed", runs);
}

/// Label areas that fail, in front of what is durable.
fn failing_areas(ways: u32, images: &[Image], faults: &Faults) -> Vec<Arc<Faulty<SimMedium>>> {
    (0..ways as usize)
        .map(|n| Arc::new(Faulty::simulated(images[n].clone(), faults, Model::Pages).forgetful()))
        .collect()
}

fn blank_areas(ways: u32) -> Vec<Image> {
    (0..ways)
        .map(|_| {
            let area = SimMedium::memory(Image::zeros(128 << 10), Model::X86);
            nvstack_label::LabelArea::init(&area, nvstack_format::label::Version::V1_2).unwrap();
            area.image()
        })
        .collect()
}

/// The bus of a set over label areas as they would be found after a cut that spares nothing.
fn durable(ways: u32, areas: &[Arc<Faulty<SimMedium>>]) -> BusSpec {
    let areas: Vec<Arc<dyn Media>> = areas
        .iter()
        .map(|area| Arc::new(SimMedium::memory(area.durable().unwrap(), Model::X86)) as Arc<dyn Media>)
        .collect();
    set(ways, 64 * MIB, &areas)
}

fn visible(ways: u32, areas: &[Arc<Faulty<SimMedium>>]) -> BusSpec {
    let areas: Vec<Arc<dyn Media>> = areas
        .iter()
        .map(|area| Arc::new(SimMedium::memory(area.seen().unwrap(), Model::X86)) as Arc<dyn Media>)
        .collect();
    set(ways, 64 * MIB, &areas)
}

/// The stores by which a namespace is made, and is gone again.
fn steps() -> Vec<(&'static str, String)> {
    vec![
        ("uuid", uuid::Uuid::from_u128(1).to_string()),
        ("alt_name", "first".to_owned()),
        ("size", (32 * MIB).to_string()),
        ("sector_size", "4096".to_owned()),
        ("holder_class", "btt".to_owned()),
        ("alt_name", "second".to_owned()),
        ("uuid", uuid::Uuid::from_u128(2).to_string()),
        ("size", (48 * MIB).to_string()),
        ("size", "0".to_owned()),
    ]
}

#[test]
fn label_writes_that_fail_leave_what_was_or_what_was_to_be() {
    let mut runs = 0;
    for ways in [1u32, 2] {
        let blank = blank_areas(ways);
        // What another machine finds after each store, where none fails.
        let states: Vec<_> = {
            let faults = Faults::new();
            let areas = failing_areas(ways, &blank, &faults);
            let shared: Vec<Arc<dyn Media>> = areas.iter().map(|a| Arc::clone(a) as Arc<dyn Media>).collect();
            let (_stack, tree) = up(set(ways, 64 * MIB, &shared));
            let mut states = vec![found(visible(ways, &areas))];
            for (attribute, text) in steps() {
                tree.write(&format!("namespace0.0/{attribute}"), &text).unwrap();
                states.push(found(durable(ways, &areas)));
            }
            states
        };
        assert!(states.first() == states.last() && states.len() > 5);
        for moved in [Moved::Nothing, Moved::All] {
            runs += every(|n| {
                let faults = Faults::new();
                let areas = failing_areas(ways, &blank, &faults);
                let shared: Vec<Arc<dyn Media>> =
                    areas.iter().map(|a| Arc::clone(a) as Arc<dyn Media>).collect();
                let (stack, tree) = up(set(ways, 64 * MIB, &shared));
                faults.add(Rule::new(Calls::WRITES, When::Nth(n)).moved(moved));
                for (step, (attribute, text)) in steps().into_iter().enumerate() {
                    let path = format!("namespace0.0/{attribute}");
                    let hits = faults.hits();
                    let words = format!("{ways} ways, call {n}, moved {moved:?}: {attribute}={text}");
                    if let Err(error) = tree.write(&path, &text) {
                        let told = error.to_string();
                        assert!(faults.hits() > hits, "{words}: {told}");
                        assert!(told.contains("region0") && told.contains("DIMM "), "{words}: {told}");
                        let ok = &states[step..=step + 1];
                        for left in [visible(ways, &areas), durable(ways, &areas)] {
                            let left = found(left);
                            assert!(ok.contains(&left), "{words}: {told}: {left:?}");
                        }
                        tree.write(&path, &text)
                            .unwrap_or_else(|e| panic!("{words}: {told}; and again: {e}"));
                    }
                    assert_eq!(found(durable(ways, &areas)), states[step + 1], "{words}: not durable");
                    if faults.hits() > 0 {
                        // What comes after it is as without.
                        faults.clear();
                    }
                }
                drop(stack);
                faults
            });
        }
    }
    assert!(runs > 100, "{runs}");
    tally("faults", "label writes of a machine", "calls that failed", runs);
}

#[test]
fn a_btt_that_cannot_be_laid_out_leaves_its_seed_at_every_call() {
    let runs = every(|n| {
        let faults = Faults::new();
        let medium = Arc::new(Faulty::new(Anon::new(32 * MIB).unwrap(), &faults));
        let (stack, tree) = up(common::labelled(Arc::clone(&medium) as Arc<dyn Media>, labels()));
        let ns = allocate(&tree, "region0", 1, 32 * MIB, 512, "btt");
        btt_seed(&tree, "btt0.0", 9, 4096, &ns);
        let state = || ["uuid", "sector_size", "namespace"].map(|a| get(&tree, &format!("btt0.0/{a}")));
        let before = state();
        faults.fail(Calls::MEDIUM, When::Nth(n));
        let made = tree.write("bus/nd/drivers/nd_pmem/bind", "btt0.0");
        faults.clear();
        if let Err(error) = made {
            assert_eq!(error.kind(), Kind::Io, "call {n}: {error}");
            assert!(error.to_string().contains("memory of 33554432 bytes"), "call {n}: {error}");
            assert_eq!((state(), get(&tree, "region0/btt_seed")), (before, "btt0.0".to_owned()), "call {n}");
            bind(&tree, "btt0.0").unwrap_or_else(|e| panic!("call {n}: {error}; and again: {e}"));
        }
        assert_eq!(get(&tree, "region0/btt_seed"), "btt0.1", "call {n}");
        let disk = open(&stack, &ns);
        write(&*disk, 3, 7).unwrap();
        assert_eq!(read(&*disk, 3).unwrap()[0], 7);
        faults
    });
    assert!(runs > 5, "{runs}");
    tally("faults", "BTTs laid out by a machine", "calls that failed", runs);
}

#[test]
fn a_teardown_over_media_that_fail_leaves_nothing_behind() {
    let calls = [Calls::DRAIN, Calls::FLUSH, Calls::WRITES, Calls::MEDIUM];
    for (kind, calls) in [Kind::Io, Kind::Fault, Kind::Poison].into_iter().flat_map(|k| calls.map(|c| (k, c)))
    {
        let faults = Faults::new();
        let media = Arc::new(Faulty::new(Anon::new(256 * MIB).unwrap(), &faults));
        let area = Arc::new(Faulty::new(Anon::new(128 << 10).unwrap(), &faults));
        nvstack_label::LabelArea::init(&area, nvstack_format::label::Version::V1_2).unwrap();
        let stack = Stack::new();
        let spec =
            common::labelled(Arc::clone(&media) as Arc<dyn Media>, Arc::clone(&area) as Arc<dyn Media>);
        let id = stack.register(spec);
        stack.settle_within(PATIENCE).unwrap();
        let tree = stack.tree();
        for (n, mode) in (1..).zip(["raw", "sector", "fsdax", "devdax"]) {
            create(&tree, "region0", mode, n, 32 * MIB);
        }
        let disks = [0, 1, 2].map(|n| open(&stack, &format!("namespace0.{n}")));
        for disk in &disks {
            write(&**disk, 1, 1).unwrap();
        }
        faults.add(Rule::new(calls, When::From(1)).with(Fault::Error(kind)));
        // It may say that a flush failed; it goes all the same.
        let _ = stack.unregister(id);
        assert!(tree.list("bus/nd/devices").unwrap().is_empty(), "{calls:?}");
        for disk in &disks {
            assert_eq!(write(&**disk, 1, 1).unwrap_err().kind(), Kind::Gone, "{calls:?}");
        }
        drop(disks);
        let until = std::time::Instant::now() + PATIENCE;
        while Arc::strong_count(&media) + Arc::strong_count(&area) > 2 && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!((Arc::strong_count(&media), Arc::strong_count(&area)), (1, 1), "{calls:?}: still held");
    }
}

#[test]
fn slow_media_hold_up_nobody_else() {
    let faults = Faults::new();
    let slow = Rule::new(Calls::MEDIUM, When::Every(1)).with(Fault::Delay(Duration::from_millis(2)));
    faults.add(slow);
    let media: Vec<Arc<dyn Media>> = (0..4).map(|_| anon(32 * MIB)).collect();
    let mut mixed = media.clone();
    mixed[0] = Arc::new(Faulty::new(Arc::clone(&media[0]), &faults));
    let (stack, _tree) = up(ranges(mixed));
    for n in 0..4u8 {
        let disk = open(&stack, &format!("namespace{n}.0"));
        write(&*disk, 1, n).unwrap();
        assert_eq!(read(&*disk, 1).unwrap()[0], n);
    }
    assert!(faults.count(Calls::MEDIUM) > 0 && faults.hits() == 0);
}
