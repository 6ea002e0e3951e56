// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs that change state: which stores they make, in which order, and what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::dump;
use common::fake::Fake;
use nvstack_media::Kind;
use nvstack_ndctl::{
    CreateOptions, DestroyOptions, EnableOptions, Lines, Mode, Sys, create, destroy, disable_dimms,
    disable_namespaces, disable_regions, enable_namespaces, enable_regions, status,
};
use serde_json::Value;

fn seed() -> Fake {
    Fake::new(dump("sysfs-seed"))
}

/// Those of a namespace of 64 MiB.
fn options(mode: Mode) -> CreateOptions {
    CreateOptions { mode: Some(mode), size: Some(64 << 20), ..CreateOptions::default() }
}

/// The stores without binds that a driver for other devices refused, and uuids by their place.
fn told(fake: &Fake) -> Vec<String> {
    let mut stores = fake.stores();
    stores.retain(|s| {
        !["dax_pmem/bind=namespace", "dax_pmem/bind=btt", "dax_pmem/bind=pfn"]
            .iter()
            .any(|foreign| s.starts_with(foreign))
    });
    for store in &mut stores {
        if let Some((node, uuid)) = store.split_once("/uuid=") {
            uuid::Uuid::parse_str(uuid).unwrap();
            *store = format!("{node}/uuid=UUID");
        }
    }
    stores
}

fn make(fake: &Fake, o: &CreateOptions) -> Value {
    let mut lines = Lines::default();
    let mut outcome = create(fake, o, &mut lines).unwrap();
    assert_eq!((outcome.status, lines.lines.len()), (0, 0), "{lines:?}");
    assert_eq!(outcome.count, 1);
    outcome.json.remove(0)
}

#[test]
fn create_stores_as_ndctl_does() {
    let fake = seed();
    let made = make(&fake, &CreateOptions { name: Some("mine".into()), ..options(Mode::Raw) });
    assert_eq!(
        told(&fake),
        [
            "namespace0.0/uuid=UUID",
            "namespace0.0/alt_name=mine",
            "namespace0.0/size=0x4000000\\n",
            "namespace0.0/sector_size=512\\n",
            "namespace0.0/holder_class=",
            "nd_bus/bind=namespace0.0",
            "nd_pmem/bind=namespace0.0",
        ]
    );
    assert_eq!(
        (&made["mode"], &made["size"], &made["name"]),
        (&"raw".into(), &67108864.into(), &"mine".into())
    );

    let fake = seed();
    let made = make(&fake, &options(Mode::Sector));
    assert_eq!(
        told(&fake),
        [
            "namespace0.0/uuid=UUID",
            "namespace0.0/alt_name=",
            "namespace0.0/size=0x4000000\\n",
            "namespace0.0/sector_size=4096\\n",
            "namespace0.0/holder_class=btt",
            "btt0.0/uuid=UUID",
            "btt0.0/sector_size=4096\\n",
            "btt0.0/namespace=namespace0.0",
            "nd_bus/bind=btt0.0",
            "nd_pmem/bind=btt0.0",
        ]
    );
    assert_eq!((&made["mode"], &made["sector_size"]), (&"sector".into(), &4096.into()));

    for (mode, class, last) in [(Mode::Fsdax, "pfn", "nd_pmem"), (Mode::Devdax, "dax", "dax_pmem")] {
        let fake = seed();
        let made = make(&fake, &options(mode));
        let told = told(&fake);
        let want: Vec<String> = ["uuid=UUID", "mode=pmem", "align=2097152\\n", "namespace=namespace0.0"]
            .iter()
            .map(|s| format!("{class}0.0/{s}"))
            .collect();
        assert_eq!(told[4], format!("namespace0.0/holder_class={class}"));
        assert_eq!(told[5..9], want);
        assert_eq!(told.last().unwrap(), &format!("{last}/bind={class}0.0"));
        assert_eq!(made["mode"], mode.name());
    }
}

#[test]
fn a_sector_size_that_the_namespace_has_not_is_only_the_btts() {
    let fake = seed();
    make(&fake, &CreateOptions { sector_size: Some(520), ..options(Mode::Sector) });
    let told = told(&fake);
    assert!(!told.iter().any(|s| s.starts_with("namespace0.0/sector_size")), "{told:?}");
    assert!(told.contains(&"btt0.0/sector_size=520\\n".to_owned()));
}

#[test]
fn refusals_name_what_is_accepted_and_store_nothing() {
    let fake = seed();
    let refusal = |o: CreateOptions| {
        let e = create(&fake, &o, &mut Lines::default()).unwrap_err();
        assert_eq!(status(&e), 234, "{e}");
        e.to_string()
    };
    assert_eq!(
        refusal(CreateOptions { sector_size: Some(16384), ..options(Mode::Sector) }),
        "sector size 16384 is not one of 512 520 528 4096 4104 4160 4224"
    );
    assert_eq!(
        refusal(CreateOptions { sector_size: Some(520), ..options(Mode::Raw) }),
        "sector size in raw mode 520 is not one of 512 4096"
    );
    assert_eq!(
        refusal(CreateOptions { align: Some(8192), ..options(Mode::Fsdax) }),
        "align in fsdax mode 8192 is not one of 4096 2097152 1073741824"
    );
    assert_eq!(
        refusal(CreateOptions { size: Some(20 << 20), ..options(Mode::Raw) }),
        "region0: align setting is 0x1000000 size 0x1400000 is misaligned: accepted --size=16777216 or --size=33554432"
    );
    assert_eq!(
        refusal(CreateOptions { align: Some(1 << 30), ..options(Mode::Devdax) }),
        "'--size=' must align to interleave-width: 1 and alignment: 1073741824: found 67108864 (64.00 MiB (67.11 MB)), \
         accepted --size=1G, if that was meant"
    );
    assert_eq!(
        refusal(CreateOptions { align: Some(4096), ..options(Mode::Raw) }),
        "align: found raw mode, accepted fsdax or devdax"
    );
    assert_eq!(fake.stores(), [""; 0]);
}

#[test]
fn where_no_space_is_left_the_status_is_enodev() {
    let fake = seed();
    let mut lines = Lines::default();
    let o = CreateOptions { size: Some(1 << 30), ..options(Mode::Raw) };
    let outcome = create(&fake, &o, &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.count), (237, 0));
    assert_eq!(
        lines.lines,
        ["  Error: create namespace: no space left on device: region0 has 251658240 bytes free in one piece"]
    );
}

#[test]
fn going_on_fills_the_region() {
    let fake = seed();
    let mut lines = Lines::default();
    let o = CreateOptions { continuous: true, ..options(Mode::Sector) };
    let outcome = create(&fake, &o, &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.count), (0, 3));
    assert_eq!(lines.lines, ["created 3 namespaces"]);
    let names: Vec<&str> = outcome.json.iter().map(|n| n["dev"].as_str().unwrap()).collect();
    assert_eq!(names, ["namespace0.0", "namespace0.1", "namespace0.2"]);
}

#[test]
fn what_does_not_come_up_is_taken_back() {
    let fake = seed();
    fake.fail("nd_pmem/bind=btt0.0", Kind::Io);
    let mut lines = Lines::default();
    let outcome = create(&fake, &options(Mode::Sector), &mut lines).unwrap();
    assert_eq!(outcome.status, 251);
    let told = told(&fake);
    assert_eq!(
        told[told.len() - 3..],
        ["btt0.0/namespace=\\n", "namespace0.0/holder_class=", "namespace0.0/size=0\\n"]
    );
    assert!(lines.lines[0].starts_with("  Error: enable btt0.0"), "{lines:?}");
}

#[test]
fn a_plan_tells_where_space_comes_from_and_stores_nothing() {
    let fake = Fake::new(dump("sysfs-raw"));
    let plan = |o: CreateOptions| {
        let o = CreateOptions { dry_run: true, ..o };
        create(&fake, &o, &mut Lines::default()).unwrap().json.remove(0)
    };
    let sector = plan(options(Mode::Sector));
    assert_eq!(sector["offset"], 64 << 20);
    assert_eq!(
        sector["extents"],
        serde_json::json!([{ "dimm": "nmem0", "dpa": 64 << 20, "size": 64 << 20 }])
    );
    // What Linux makes of 64 MiB.
    assert_eq!((&sector["size"], &sector["info"]), (&65966080.into(), &8192.into()));
    for mode in [Mode::Fsdax, Mode::Devdax] {
        let mapped = plan(options(mode));
        assert_eq!((&mapped["size"], &mapped["info"]), (&65011712.into(), &8192.into()));
        assert_eq!(mapped["alignment_loss"], (2 << 20) - 8192 - 64 * (16384 - 2));
    }
    // All of what is left, but for the last piece that is no step of 16 MiB.
    let raw = plan(CreateOptions { mode: Some(Mode::Raw), ..CreateOptions::default() });
    assert_eq!((&raw["raw_size"], &raw["unallocatable"]), (&184549376.into(), &16646144.into()));
    for plan in [sector, raw] {
        let sum: u64 = ["info", "tables", "spare", "alignment_loss", "size"]
            .iter()
            .map(|k| plan[*k].as_u64().unwrap())
            .sum();
        assert_eq!(plan["raw_size"], sum);
    }
    assert_eq!(fake.stores(), [""; 0]);
}

#[test]
fn destroy_wipes_and_frees() {
    let fake = seed();
    make(&fake, &options(Mode::Sector));
    fake.stores();
    let named =
        |force| DestroyOptions { namespaces: vec!["namespace0.0".into()], force, ..Default::default() };
    let mut lines = Lines::default();
    let outcome = destroy(&fake, &named(false), &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.count), (240, 0));
    assert_eq!(
        lines.lines,
        [
            "  Error: use namespace0.0: found an active namespace, accepted a disabled one, or --force",
            "destroyed 0 namespaces"
        ]
    );
    assert_eq!(fake.stores(), [""; 0]);

    let mut lines = Lines::default();
    let outcome = destroy(&fake, &named(true), &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.count), (0, 1), "{lines:?}");
    assert_eq!(lines.lines, ["destroyed 1 namespace"]);
    assert_eq!(
        told(&fake),
        [
            "btt0.0/driver/unbind=btt0.0",
            "btt0.0/namespace=\\n",
            "namespace0.0/holder_class=",
            "namespace0.0/force_raw=1\\n",
            "nd_bus/bind=namespace0.0",
            "nd_pmem/bind=namespace0.0",
            "pmem0@0+8192",
            "namespace0.0/force_raw=0\\n",
            "namespace0.0/driver/unbind=namespace0.0",
            "namespace0.0/size=0\\n",
        ]
    );
    assert!(fake.media("namespace0.0", 0, 8192).iter().all(|b| *b == 0));
}

#[test]
fn a_device_in_use_stays() {
    let fake = seed();
    make(&fake, &options(Mode::Fsdax));
    fake.stores();
    fake.busy("pmem0");
    let mut lines = Lines::default();
    let outcome = disable_namespaces(&fake, &EnableOptions::named("all"), &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.count), (240, 0));
    assert!(lines.lines[0].contains("/dev/pmem0 not open or mounted"), "{lines:?}");
    assert_eq!(fake.stores(), [""; 0]);
    let outcome = disable_regions(&fake, &EnableOptions::named("region0"), &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.count), (0, 0));
}

#[test]
fn a_namespace_comes_back_as_what_stands_on_it() {
    let fake = seed();
    make(&fake, &options(Mode::Sector));
    let all = EnableOptions::named("all");
    let mut lines = Lines::default();
    assert_eq!(disable_namespaces(&fake, &all, &mut lines).unwrap().count, 1);
    assert!(fake.stores().ends_with(&["btt0.0/driver/unbind=btt0.0".into(), "btt0.0/namespace=\\n".into()]));
    // The driver refuses the namespace, and serves the BTT that it found.
    assert_eq!(enable_namespaces(&fake, &all, &mut lines).unwrap().count, 1);
    assert_eq!(enable_namespaces(&fake, &all, &mut lines).unwrap().count, 1);
    assert_eq!(lines.lines, ["disabled 1 namespace", "enabled 1 namespace", "enabled 1 namespace"]);
    let unknown = enable_namespaces(&fake, &EnableOptions::named("namespace0.7"), &mut lines).unwrap_err();
    assert_eq!(
        (status(&unknown), unknown.to_string().as_str()),
        (250, "look for namespace: found namespace0.7, accepted namespace0.0 namespace0.1")
    );
}

#[test]
fn a_dimm_in_use_is_skipped() {
    let fake = seed();
    let mut lines = Lines::default();
    let dimm = EnableOptions::named("nmem0");
    assert_eq!(disable_dimms(&fake, &dimm, &mut lines).unwrap().status, 1);
    assert_eq!(disable_regions(&fake, &EnableOptions::named("0"), &mut lines).unwrap().count, 1);
    assert_eq!(disable_dimms(&fake, &dimm, &mut lines).unwrap().count, 1);
    assert_eq!(enable_regions(&fake, &EnableOptions::named("all"), &mut lines).unwrap().count, 1);
    assert_eq!(
        lines.lines,
        [
            "nmem0 is active, skipping...",
            "disabled 0 nmem",
            "disabled 1 region",
            "disabled 1 nmem",
            "enabled 1 region"
        ]
    );
}

#[test]
fn a_namespace_is_made_anew_only_when_all_is_checked() {
    let fake = seed();
    make(&fake, &CreateOptions { name: Some("kept".into()), ..options(Mode::Sector) });
    fake.stores();
    let anew = CreateOptions { reconfigure: Some("namespace0.0".into()), ..CreateOptions::default() };
    let mut lines = Lines::default();
    let busy = create(&fake, &anew, &mut lines).unwrap_err();
    assert_eq!(status(&busy), 240);
    let bad = CreateOptions { force: true, sector_size: Some(1000), ..anew.clone() };
    assert_eq!(create(&fake, &bad, &mut lines).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(fake.stores(), [""; 0]);

    // Mode, size, name and sector size stay as they are if nothing else is said.
    let made = make(&fake, &CreateOptions { force: true, ..anew.clone() });
    assert_eq!(
        (&made["mode"], &made["sector_size"], &made["name"]),
        (&"sector".into(), &4096.into(), &"kept".into())
    );
    let told = told(&fake);
    assert_eq!(
        told[..16],
        [
            "btt0.0/driver/unbind=btt0.0",
            "btt0.0/namespace=\\n",
            "namespace0.0/holder_class=",
            "namespace0.0/force_raw=1\\n",
            "nd_bus/bind=namespace0.0",
            "nd_pmem/bind=namespace0.0",
            "pmem0@0+8192",
            "namespace0.0/force_raw=0\\n",
            "namespace0.0/driver/unbind=namespace0.0",
            "namespace0.0/uuid=UUID",
            "namespace0.0/alt_name=kept",
            "namespace0.0/size=0x4000000\\n",
            "namespace0.0/sector_size=4096\\n",
            "namespace0.0/holder_class=btt",
            "btt0.1/uuid=UUID",
            "btt0.1/sector_size=4096\\n",
        ]
    );

    let made =
        make(&fake, &CreateOptions { force: true, mode: Some(Mode::Fsdax), size: Some(32 << 20), ..anew });
    assert_eq!(made["mode"], "fsdax");
    assert!(fake.stores().contains(&"namespace0.0/size=0x2000000\\n".to_owned()));
}

#[test]
fn what_cannot_be_made_anew_stays_raw() {
    let fake = seed();
    make(&fake, &options(Mode::Raw));
    fake.fail("nd_pmem/bind=btt0.0", Kind::Io);
    fake.stores();
    let o = CreateOptions { reconfigure: Some("0.0".into()), force: true, ..options(Mode::Sector) };
    let outcome = create(&fake, &o, &mut Lines::default()).unwrap();
    assert_eq!((outcome.status, outcome.count), (251, 0));
    let told = told(&fake);
    assert_eq!(told[told.len() - 2..], ["btt0.0/namespace=\\n", "namespace0.0/holder_class="]);
    assert_eq!(fake.read("bus/nd/devices/namespace0.0/size").unwrap(), "67108864\n");
}

#[test]
fn a_namespace_that_no_driver_takes_can_be_destroyed() {
    let fake = seed();
    make(&fake, &options(Mode::Raw));
    let mut lines = Lines::default();
    disable_namespaces(&fake, &EnableOptions::named("all"), &mut lines).unwrap();
    fake.fail("nd_pmem/bind=namespace0.0", Kind::Gone);
    let named = DestroyOptions { namespaces: vec!["namespace0.0".into()], ..Default::default() };
    let outcome = destroy(&fake, &named, &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.count), (0, 1), "{lines:?}");
    assert!(lines.lines[1].starts_with("  Warning: namespace0.0 failed to enable for zeroing"), "{lines:?}");
    assert!(fake.stores().ends_with(&["namespace0.0/size=0\\n".into()]));
}

#[test]
fn a_region_that_is_not_there_is_told_and_no_failure() {
    let mut lines = Lines::default();
    let outcome = disable_regions(&seed(), &EnableOptions::named("region7"), &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.count), (0, 0));
    assert_eq!(
        lines.lines,
        ["  Error: look for region: found region7, accepted region0", "disabled 0 regions"]
    );
}

#[test]
fn a_plan_for_making_anew_stays_in_its_place() {
    let fake = lab_of_three();
    let plan = |size: u64| {
        let o = CreateOptions {
            reconfigure: Some("namespace0.1".into()),
            dry_run: true,
            force: true,
            size: Some(size),
            mode: Some(Mode::Raw),
            ..CreateOptions::default()
        };
        create(&fake, &o, &mut Lines::default()).map(|mut outcome| outcome.json.remove(0)["offset"].clone())
    };
    assert_eq!(plan(32 << 20).unwrap(), 64 << 20);
    assert_eq!(plan(64 << 20).unwrap(), 64 << 20);
    // It cannot grow over its neighbour, and nowhere else is more.
    assert_eq!(plan(112 << 20).map_err(|e| e.kind()), Err(Kind::NoSpace));
}

/// Three namespaces of 64 MiB in a row.
fn lab_of_three() -> Fake {
    let fake = seed();
    create(&fake, &CreateOptions { continuous: true, ..options(Mode::Raw) }, &mut Lines::default()).unwrap();
    for i in 0..3u64 {
        let at = 0x1_0000_0000 + (i << 26);
        fake.set(&format!("bus/nd/devices/namespace0.{i}/resource"), &format!("{at:#x}"));
    }
    fake
}

/// A region as a DIMM with a blank label area gives it.
fn label_less() -> Fake {
    let fake = Fake::new(dump("sysfs-raw"));
    let namespace = "bus/nd/devices/namespace0.0";
    fake.set("bus/nd/devices/region0/nstype", "4");
    fake.set("bus/nd/devices/nmem0/flags", "");
    fake.set(&format!("{namespace}/nstype"), "4");
    fake.set(&format!("{namespace}/size"), "268304384");
    fake.set(&format!("{namespace}/sector_size"), "");
    fake
}

#[test]
fn making_a_namespace_anew_makes_labels_first() {
    let fake = label_less();
    let o = CreateOptions {
        reconfigure: Some("namespace0.0".into()),
        force: true,
        mode: Some(Mode::Sector),
        ..CreateOptions::default()
    };
    make(&fake, &o);
    let mut told = told(&fake);
    told.retain(|s| !s.starts_with("nd_bus") && !s.starts_with("dax_pmem"));
    let start = told.iter().position(|s| s.starts_with("region0")).unwrap();
    assert_eq!(
        told[start..start + 4],
        ["region0/driver/unbind=region0", "nmem0@0+256", "nmem0@256+256", "nmem0/driver/unbind=nmem0"]
    );
    assert!(told.contains(&"nvdimm/bind=nmem0".to_owned()));
    let size = told.iter().position(|s| s == "namespace0.0/size=0xf000000\\n").unwrap();
    assert!(told.iter().position(|s| s == "nd_region/bind=region0").unwrap() < size);
    assert!(fake.labels("nmem0").starts_with(b"NAMESPACE_INDEX"));

    let fake = label_less();
    let made = make(&fake, &CreateOptions { autolabel: false, ..o });
    assert!(!fake.stores().iter().any(|s| s.starts_with("nmem0@") || s.contains("/size=")));
    assert!(made.get("uuid").is_some());
}

#[test]
fn without_labels_a_namespace_has_the_size_of_its_region() {
    let fake = label_less();
    let o =
        CreateOptions { reconfigure: Some("namespace0.0".into()), autolabel: false, ..options(Mode::Raw) };
    let e = create(&fake, &o, &mut Lines::default()).unwrap_err();
    assert!(e.to_string().contains("accepted no --size"), "{e}");
}

#[test]
fn labels_that_another_region_uses_are_left_alone() {
    let fake = label_less();
    fake.set("bus/nd/devices/nmem0/used_elsewhere", "1");
    let o = CreateOptions {
        reconfigure: Some("namespace0.0".into()),
        force: true,
        mode: Some(Mode::Sector),
        ..CreateOptions::default()
    };
    let mut lines = Lines::default();
    let outcome = create(&fake, &o, &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.count), (0, 1), "{lines:?}");
    assert!(lines.lines[0].starts_with("  Warning: region0: goes on without labels: nmem0: regions active"));
    assert!(fake.labels("nmem0").iter().all(|b| *b == 0));
    // The region came back.
    assert!(fake.link("bus/nd/devices/region0/driver").is_ok());
}

#[test]
fn a_uuid_is_given_once() {
    let fake = Fake::new(dump("sysfs-raw"));
    let taken = "90313ca2-ee33-4ec1-b48f-6df1eb1d6893".parse().unwrap();
    let o = CreateOptions { uuid: Some(taken), ..options(Mode::Raw) };
    let e = create(&fake, &o, &mut Lines::default()).unwrap_err();
    assert_eq!(
        (status(&e), e.to_string()),
        (
            234,
            format!(
                "uuid of namespace: found {taken}, which namespace0.0 has, accepted one that no namespace has"
            )
        )
    );
    assert_eq!(fake.stores(), [""; 0]);
}

#[test]
fn a_read_only_region_gives_and_loses_nothing() {
    let fake = Fake::new(dump("sysfs-raw"));
    fake.set("bus/nd/devices/region0/read_only", "1");
    let mut lines = Lines::default();
    assert_eq!(create(&fake, &options(Mode::Raw), &mut lines).unwrap().status, 237);
    let all = DestroyOptions { namespaces: vec!["all".into()], force: true, ..Default::default() };
    assert_eq!(destroy(&fake, &all, &mut lines).unwrap().count, 0);
    assert_eq!(
        lines.lines[..2],
        [
            "  Error: create namespace: no space left on device: region0 is read-only",
            "  Error: use namespace0.0: found region0 read-only"
        ]
    );
    assert_eq!(fake.stores(), [""; 0]);
}
