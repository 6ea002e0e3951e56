// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a lab becomes when its files are opened.
#![allow(clippy::cast_possible_truncation)]
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use nvstack_format::label::{Flags, Label, Name, Version};
use nvstack_format::{Dpa, SetMember, cookies, guid};
use nvstack_lab::{Interleaving, Lab, OpenLab, Persistence, RegionKind, Template, TemplateDimm, TemplateSet};
use nvstack_label::LabelArea;
use nvstack_media::{Access, Kind, Media, MediaOffset};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const LABELS: u64 = 128 << 10;

fn file(dir: &Path, name: &str, size: u64) -> PathBuf {
    let path = dir.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

fn lab(dir: &Path, text: &str) -> Lab {
    Lab::parse(text, dir.join("lab.toml")).unwrap()
}

fn open(dir: &Path, text: &str) -> OpenLab {
    lab(dir, text).open(Access::ReadWrite).unwrap()
}

fn read(media: &dyn Media, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    media.read(MediaOffset(at), &mut bytes).unwrap();
    bytes
}

#[test]
fn without_regions_each_dimm_is_one_as_in_qemu() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path(), "a", 32 * MIB);
    file(dir.path(), "b", 48 * MIB);
    let open = open(
        dir.path(),
        "[[bus]]\ndimm = [{ file = 'a', label-size = '128K' }, { file = 'b', label-size = 0 }]",
    );
    let bus = &open.buses[0];
    assert_eq!(bus.provider, "ACPI.NFIT");
    let parts: Vec<_> = bus.dimms.iter().map(|dimm| dimm.parts.as_ref().unwrap()).collect();
    assert_eq!(parts[0].pmem.len(), 32 * MIB - LABELS);
    assert_eq!(parts[0].labels.as_ref().unwrap().len(), LABELS);
    assert_eq!(parts[1].pmem.len(), 48 * MIB);
    assert!(parts[1].labels.is_none());
    let handles: Vec<u32> = bus.dimms.iter().map(|d| d.identity.as_ref().unwrap().handle).collect();
    assert_eq!(handles, [1, 2]);

    let bodies: Vec<_> = bus.regions.iter().map(|region| region.body.as_ref().unwrap()).collect();
    assert_eq!((bodies[0].start, bodies[0].size, bodies[0].align), (4 << 30, 32 * MIB - LABELS, 16 * MIB));
    assert_eq!((bodies[1].start, bodies[1].size), ((4 << 30) + 32 * MIB, 48 * MIB));
    for (index, region) in (0u32..).zip(&bus.regions) {
        assert_eq!(region.cookies, Some(cookies(&[SetMember::qemu(index)])));
        assert_eq!((u32::from(region.range_index), region.kind), (2 * index + 2, RegionKind::Pmem));
        assert_eq!((region.numa_node, region.target_node, region.read_only), (0, 0, false));
    }
    // The three views are of the same bytes.
    bodies[0].media.store(MediaOffset(77), b"here").unwrap();
    assert_eq!(read(&*parts[0].pmem, 77, 4), b"here");
    let labels = parts[0].labels.as_ref().unwrap();
    labels.store(MediaOffset(0), b"labels").unwrap();
    labels.drain().unwrap();
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap()[(32 * MIB - LABELS) as usize..][..6], *b"labels");
}

#[test]
fn a_set_is_striped_in_the_order_of_positions() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        file(dir.path(), name, 4 * MIB);
    }
    let open = open(
        dir.path(),
        r#"
        [[bus]]
        dimm = [{ file = "a", label-size = 0 }, { file = "b", label-size = 0 }, { file = "c", label-size = 0 }]
        [[bus.region]]
        members = [
            { dimm = 0, offset = "1M", size = "2M", position = 1 },
            { dimm = 2, offset = "2M", size = "2M", position = 0 }]
        interleave = "4K"
        numa-node = 3
        target-node = "none"
        read-only = true
        type = "volatile"
        persistence = "cpu_cache"
        start = "64G"
        [[bus.region]]
        members = [0, 1]
        "#,
    );
    let set = &open.buses[0].regions[0];
    let body = set.body.as_ref().unwrap();
    let mappings: Vec<_> =
        body.mappings.iter().map(|m| (m.dimm, m.dpa.0, m.size, m.position, m.region_offset)).collect();
    assert_eq!(mappings, [(2, 2 * MIB, 2 * MIB, 0, 0), (0, MIB, 2 * MIB, 1, 4096)]);
    assert_eq!((body.start, body.size, body.align), (64 << 30, 4 * MIB, 4096));
    assert_eq!((set.numa_node, set.target_node, set.read_only), (3, -1, true));
    assert_eq!((set.kind, body.persistence), (RegionKind::Volatile, Persistence::CpuCache));
    let member = |dimm: u32, region_offset| SetMember { region_offset, ..SetMember::qemu(dimm) };
    assert_eq!(set.cookies, Some(cookies(&[member(2, 0), member(0, 4096)])));
    body.media.store(MediaOffset(0), &[[1; 4096], [2; 4096], [3; 4096]].concat()).unwrap();
    body.media.drain().unwrap();
    let bytes = |name: &str, at: u64| std::fs::read(dir.path().join(name)).unwrap()[at as usize];
    assert_eq!((bytes("c", 2 * MIB), bytes("a", MIB), bytes("c", 2 * MIB + 4096)), (1, 2, 3));

    // The other region takes all of DIMM 0, parts of which are taken. It alone is not there.
    let e = open.buses[0].regions[1].body.as_ref().unwrap_err();
    assert!(
        e.to_string().contains("lab.toml:16:20: lay out the region: found bytes 0 to 4194304 of DIMM 0"),
        "{e}"
    );
}

#[test]
fn what_is_absent_takes_nothing_else_with_it() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path(), "short", 8 * MIB - 100);
    file(dir.path(), "small", 4 * MIB);
    file(dir.path(), "well", 8 * MIB);
    file(dir.path(), "tiny", 4096);
    let text = r#"
        [[bus]]
        [[bus.dimm]]
        file = "missing"
        size = "8M"
        label-size = 0
        [[bus.dimm]]
        file = "short"
        [[bus.dimm]]
        file = "small"
        size = "8M"
        label-size = 0
        [[bus.dimm]]
        file = "well"
        label-size = 0
        [[bus.dimm]]
        file = "tiny"
        label-size = "128K"
        [[bus.region]]
        members = [0]
        [[bus.region]]
        members = [{ dimm = 1, region-offset = 0 }, { dimm = 2, region-offset = 512 }]
        interleave = "concat"
        [[bus.region]]
        members = [3]
        [[bus.range]]
        file = "gone"
        "#;
    let open = open(dir.path(), text);
    let bus = &open.buses[0];
    let told: Vec<(Kind, String)> = bus
        .dimms
        .iter()
        .filter_map(|dimm| dimm.parts.as_ref().err())
        .map(|e| (e.kind(), e.to_string().replace(&*dir.path().to_string_lossy(), "")))
        .collect();
    assert_eq!(told[0], (Kind::NotFound, "/missing: open: No such file or directory (os error 2)".into()));
    assert_eq!(
        told[1],
        (Kind::Invalid, "/short: open DIMM: found 8388508 bytes, accepted a multiple of 4096".into())
    );
    assert_eq!(told[2], (Kind::Invalid, "/small: open DIMM: found 4194304 bytes, accepted 8388608".into()));
    assert_eq!(
        told[3].1,
        "/tiny: open DIMM: found a label area of 131072 bytes, accepted a multiple of 4096 below the file's 4096"
    );
    let e = bus.regions[0].body.as_ref().unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    assert!(
        e.to_string().contains("missing: assemble region: found DIMM 0 absent, accepted every DIMM"),
        "{e}"
    );
    assert!(bus.regions[1].body.is_err());
    assert_eq!(bus.regions[3].body.as_ref().unwrap_err().kind(), Kind::NotFound);
    // Who the DIMMs are is known all the same, and where the next one lies.
    let members =
        [1, 2].map(|dimm| SetMember { region_offset: u64::from(dimm - 1) * 512, ..SetMember::qemu(dimm) });
    assert_eq!(bus.regions[1].cookies, Some(cookies(&members)));
    let well = bus.regions[2].body.as_ref().unwrap();
    assert_eq!((well.size, well.start), (8 * MIB, (4 << 30) + 16 * MIB));
}

#[test]
fn a_file_has_one_place_in_one_lab() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "a", 4 * MIB);
    std::os::unix::fs::symlink(&path, dir.path().join("b")).unwrap();
    std::fs::hard_link(&path, dir.path().join("c")).unwrap();
    for other in ["a", "./a", "b", "c"] {
        let text = format!("[[bus]]\n[[bus.dimm]]\nfile = 'a'\n[[bus]]\n[[bus.range]]\nfile = '{other}'");
        let e = lab(dir.path(), &text).open(Access::ReadWrite).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
        assert!(e.to_string().contains("lab.toml:5:1: open lab: found "), "{e}");
        assert!(e.to_string().contains("which is the file of line 2 ("), "{e}");
    }
    // Nor in two labs at once, but for readers.
    let one = lab(dir.path(), "[[bus]]\ndimm = [{ file = 'a' }]");
    let held = one.open(Access::ReadWrite).unwrap();
    let busy = one.open(Access::ReadOnly).unwrap();
    let e = busy.buses[0].dimms[0].parts.as_ref().unwrap_err();
    assert!(
        e.kind() == Kind::Busy && e.to_string().contains(&format!("process {}", std::process::id())),
        "{e}"
    );
    assert_eq!(busy.buses[0].regions[0].body.as_ref().unwrap_err().kind(), Kind::Busy);
    drop(held);
    let readers = [one.open(Access::ReadOnly).unwrap(), one.open(Access::ReadOnly).unwrap()];
    assert!(readers.iter().all(|lab| lab.buses[0].regions[0].body.as_ref().unwrap().media.read_only()));
    // As long as one piece of it is held, the file is.
    let pmem = one.open(Access::ReadWrite).map(|_| ());
    drop(pmem);
    let [first, second] = readers;
    drop(first);
    let piece = second.buses.into_iter().next().unwrap().regions.remove(0).body.unwrap().media;
    assert!(one.open(Access::ReadWrite).unwrap().buses[0].dimms[0].parts.is_err());
    drop(piece);
    assert!(one.open(Access::ReadWrite).unwrap().buses[0].dimms[0].parts.is_ok());
}

#[test]
fn ranges_and_ram() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path(), "legacy", MIB);
    let open = open(
        dir.path(),
        "[[bus]]\nrange = [{ file = 'legacy' }]\n[[bus]]\nram = [{ memory = '16M' }, { memory = '1M', start = '4G' }]",
    );
    assert_eq!([&open.buses[0].provider, &open.buses[1].provider], ["e820", "ramdax"]);
    let range = &open.buses[0].regions[0];
    let body = range.body.as_ref().unwrap();
    assert_eq!((body.size, body.mappings.len(), range.cookies), (MIB, 0, None));
    // The one whose start is told stands where it is told, whichever comes first.
    assert_eq!(body.start, (4 << 30) + 16 * MIB);
    let ram = &open.buses[1];
    assert_eq!(ram.regions[1].body.as_ref().unwrap().start, 4 << 30);
    assert!(ram.dimms[0].identity.is_none());
    assert_eq!(ram.dimms[0].parts.as_ref().unwrap().labels.as_ref().unwrap().len(), LABELS);
    assert_eq!(ram.regions[0].body.as_ref().unwrap().size, 16 * MIB - LABELS);
    let cookie = ram.regions[0].cookies.unwrap();
    assert_eq!([cookie.v1_1, cookie.v1_2, cookie.alternative], [0xcafe_beef_cafe_beef; 3]);
    assert_eq!(ram.regions[0].body.as_ref().unwrap().persistence, Persistence::Unknown);
}

#[test]
fn a_damaged_label_area_is_no_persistent_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "a", 4 * MIB);
    let text = "[[bus]]\ndimm = [{ file = 'a' }]";
    let labels = || {
        let open = open(dir.path(), text);
        open.buses[0].dimms[0].parts.as_ref().unwrap().labels.as_ref().map(|labels| labels.len())
    };
    assert_eq!(labels(), None);
    {
        let mapping = nvstack_media::Mapping::open(&path, Access::ReadWrite).unwrap();
        let part = nvstack_media::Part::new(&mapping, MediaOffset(4 * MIB - LABELS), LABELS).unwrap();
        let mut area = LabelArea::init(&part, Version::V1_2).unwrap();
        area.write_namespace(&label()).unwrap();
    }
    assert_eq!(labels(), Some(LABELS));
    let mapping = nvstack_media::Mapping::open(&path, Access::ReadWrite).unwrap();
    mapping.store(MediaOffset(4 * MIB - LABELS + 40), &[0xee; 8]).unwrap();
    assert_eq!(labels(), Some(LABELS), "one block will do");
    let area = nvstack_format::label::AreaLayout::compute(LABELS, Version::V1_2).unwrap();
    mapping.store(MediaOffset(4 * MIB - LABELS + area.index(1)), &[0xee; 64]).unwrap();
    assert_eq!(labels(), Some(LABELS), "a signature will do");
}

fn label() -> Label {
    Label {
        uuid: "00000000-0000-0000-0000-000000000001".parse().unwrap(),
        name: Name::new("disk").unwrap(),
        flags: Flags::empty(),
        nlabel: 1,
        position: 0,
        isetcookie: 1,
        lbasize: 0,
        dpa: Dpa(0),
        rawsize: MIB,
        slot: 0,
        align: 0,
        type_guid: guid::PERSISTENT_MEMORY,
        abstraction: guid::BTT2,
    }
}

/// The set that Linux wrote, whose files a QEMU had one after the other.
#[test]
fn the_cookie_of_a_set_that_linux_wrote() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let list: Value =
        serde_json::from_str(&std::fs::read_to_string(fixtures.join("golden.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["il0", "il1"] {
        let packed = File::open(fixtures.join("golden").join(format!("{name}.img.zst"))).unwrap();
        let mut bytes = Vec::new();
        ruzstd::decoding::StreamingDecoder::new(packed).unwrap().read_to_end(&mut bytes).unwrap();
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let text = r#"
        [[bus]]
        dimm = [{ file = "il0" }, { file = "il1" }]
        [[bus.region]]
        members = [{ dimm = 0, size = "32M" }, { dimm = 1, size = "32M", region-offset = 256 }]
        interleave = "concat"
        "#;
    let open = lab(dir.path(), text).open(Access::ReadOnly).unwrap();
    let region = &open.buses[0].regions[0];
    let cookie = region.cookies.unwrap().v1_2;
    for (name, dimm) in ["il0", "il1"].iter().zip(&open.buses[0].dimms) {
        for label in list[name]["labels"].as_array().unwrap() {
            assert_eq!(label["isetcookie"].as_u64(), Some(cookie));
        }
        assert_eq!(dimm.parts.as_ref().unwrap().labels.as_ref().unwrap().len(), LABELS);
    }
    // The sector-mode namespace is the first half of the region, the other the second, on the other DIMM.
    let body = region.body.as_ref().unwrap();
    assert_eq!(body.size, 64 * MIB);
    assert_eq!(read(&*body.media, 0, 14), b"BTT_ARENA_INFO");
    assert_eq!(read(&*body.media, 32 * MIB + 4096, 15), b"NVDIMM_PFN_INFO");
}

#[test]
fn a_template_is_a_lab() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a.img", "with \"quotes\" \\ and \n é.img", "c.img"];
    for name in names {
        file(dir.path(), name, 16 * MIB);
    }
    let dimm = |name: &str, label_size| TemplateDimm { file: name.into(), size: Some(16 * MIB), label_size };
    let dimms = vec![dimm(names[0], Some(LABELS)), dimm(names[1], Some(LABELS)), dimm(names[2], None)];
    let plain = Template { dimms: dimms.clone(), sets: Vec::new() };
    assert_eq!(open(dir.path(), &plain.render()).buses[0].regions.len(), 3);
    for interleaving in [Interleaving::Lines(4096), Interleaving::Concat] {
        let template =
            Template { dimms: dimms.clone(), sets: vec![TemplateSet { dimms: vec![1, 0], interleaving }] };
        let open = open(dir.path(), &template.render());
        let bodies: Vec<_> =
            open.buses[0].regions.iter().map(|region| region.body.as_ref().unwrap()).collect();
        assert_eq!(
            bodies.iter().map(|body| body.size).collect::<Vec<_>>(),
            [2 * (16 * MIB - LABELS), 16 * MIB]
        );
        assert_eq!(bodies[0].mappings[0].dimm, 1);
    }
    // What is commented out shows what holds without it, so with it nothing changes but what it says.
    let text = plain.render();
    let whole: String = text
        .lines()
        .filter(|line| {
            !line.starts_with("#flags") && !line.starts_with("#members") && !line.starts_with("#interleave")
        })
        .map(|line| match line.strip_prefix('#') {
            Some(key)
                if key.contains(" = ")
                    && !key.starts_with([' ', ':'])
                    && !text.contains(&format!("\n{key}")) =>
            {
                key
            }
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    assert!(whole.contains("\nhandle = 0x1\n") && whole.contains("\nprovider = \"ACPI.NFIT\"\n"), "{whole}");
    let identities =
        |lab: &Lab| -> Vec<_> { lab.buses[0].dimms.iter().map(|d| d.identity.clone()).collect() };
    assert_eq!(identities(&lab(dir.path(), &whole)), identities(&lab(dir.path(), &text)));
}
