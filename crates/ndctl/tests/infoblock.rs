// SPDX-License-Identifier: MIT OR Apache-2.0
//! Info blocks, and lost bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::dump;
use common::fake::Fake;
use nvstack_format::btt;
use nvstack_ndctl::model::MapLocation;
use nvstack_ndctl::{
    CreateOptions, EnableOptions, Filter, InjectError, Lines, Mode, ReadInfoblock, Sys, WriteInfoblock,
    clear_errors, create, disable_namespaces, enable_namespaces, infoblock_template, inject_error,
    read_infoblock_of, read_infoblocks, status, write_infoblock,
};
use uuid::{Uuid, uuid};

const OWN: Uuid = uuid!("11111111-2222-3333-4444-555555555555");
const PARENT: Uuid = uuid!("66666666-7777-8888-9999-aaaaaaaaaaaa");

fn template(mode: Mode) -> WriteInfoblock {
    WriteInfoblock {
        mode: Some(mode),
        size: Some(64 << 20),
        uuid: Some(OWN),
        parent: Some(PARENT),
        ..WriteInfoblock::default()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes as `ndctl` 76.1 writes them for the same options.
#[test]
fn a_template_is_what_ndctl_writes() {
    let cases = [
        (
            template(Mode::Fsdax),
            "4e5644494d4d5f50464e5f494e464f0011111111222233334444555555555555\
             66666666777788889999aaaaaaaaaaaa00000000010004000000200000000000\
             003e000000000000020000000000000000000000000020000010000040000000",
            "5e75c916ccdb98a3",
        ),
        (
            WriteInfoblock { align: Some(4096), map: Some(MapLocation::Memory), ..template(Mode::Devdax) },
            "4e5644494d4d5f4441585f494e464f0011111111222233334444555555555555\
             66666666777788889999aaaaaaaaaaaa00000000010004000000200000000000\
             003e000000000000010000000000000000000000001000000010000040000000",
            "588fa90ae85f9f32",
        ),
    ];
    for (options, fields, sum) in cases {
        let made = infoblock_template(&options, &mut Lines::default()).unwrap().bytes.unwrap();
        assert_eq!(made.len(), 8192);
        assert!(made[..4096].iter().chain(&made[4192..8184]).all(|b| *b == 0));
        assert_eq!((hex(&made[4096..4192]).as_str(), hex(&made[8184..]).as_str()), (fields, sum));
    }
    let mut lines = Lines::default();
    let none = infoblock_template(&WriteInfoblock::default(), &mut lines).unwrap_err();
    assert_eq!(none.to_string(), "make info block: found no size, accepted --size");
}

#[test]
fn fields_are_shown_as_ndctl_shows_them() {
    let mut lines = Lines::default();
    let bytes = infoblock_template(&template(Mode::Fsdax), &mut lines).unwrap().bytes.unwrap();
    let human = ReadInfoblock { human: true, ..ReadInfoblock::default() };
    let read = read_infoblock_of("w.bin", &bytes, &human, &mut lines).unwrap();
    let want = "[\n  {\n    \"file\":\"w.bin\",\n    \"signature\":\"NVDIMM_PFN_INFO\",\n    \
                \"uuid\":\"11111111-2222-3333-4444-555555555555\",\n    \
                \"parent_uuid\":\"66666666-7777-8888-9999-aaaaaaaaaaaa\",\n    \"flags\":\"0\",\n    \
                \"version\":\"1.4\",\n    \"dataoff\":\"0x200000\",\n    \"npfns\":\"0x3e00\",\n    \"mode\":2,\n    \
                \"start_pad\":\"0\",\n    \"end_trunc\":\"0\",\n    \"align\":\"0x200000\",\n    \
                \"page_size\":\"0x1000\",\n    \"page_struct_size\":\"0x40\"\n  }\n]\n";
    assert_eq!(read.text(), want);

    let json = ReadInfoblock { json: true, ..ReadInfoblock::default() };
    let read = read_infoblock_of("z.bin", &[0; 8192], &json, &mut lines).unwrap();
    assert_eq!((read.text().as_str(), read.status), ("[\n]\n", 0));
    assert_eq!(
        lines.lines[1..],
        ["read 1 infoblock", "  Warning: no matching devices found", "read 1 infoblock"]
    );
    assert!(read_infoblock_of("s.bin", &[0; 100], &json, &mut lines).is_err());
}

#[test]
fn a_block_that_does_not_verify_is_left_out() {
    let mut lines = Lines::default();
    let mut bytes = infoblock_template(&template(Mode::Devdax), &mut lines).unwrap().bytes.unwrap();
    let verify = ReadInfoblock { json: true, verify: true, ..ReadInfoblock::default() };
    let count = |bytes: &[u8], lines: &mut Lines| {
        read_infoblock_of("w.bin", bytes, &verify, lines).unwrap().json[0].as_array().unwrap().len()
    };
    assert_eq!(count(&bytes, &mut lines), 1);
    bytes[4096 + 57] ^= 1;
    assert_eq!(count(&bytes, &mut lines), 0);
    assert!(lines.lines[2].starts_with("  Warning: w.bin: verify checksum of info block"), "{lines:?}");
}

/// A namespace of 64 MiB with a label, disabled.
fn disabled() -> Fake {
    let fake = Fake::new(dump("sysfs-seed"));
    let o = CreateOptions { mode: Some(Mode::Raw), size: Some(64 << 20), ..CreateOptions::default() };
    create(&fake, &o, &mut Lines::default()).unwrap();
    fake.set("bus/nd/devices/namespace0.0/resource", "0x100000000");
    disable_namespaces(&fake, &EnableOptions::named("all"), &mut Lines::default()).unwrap();
    fake.stores();
    fake
}

#[test]
fn a_written_block_is_found_by_the_driver() {
    for (mode, claim) in [(Mode::Sector, "btt0.0"), (Mode::Fsdax, "pfn0.0"), (Mode::Devdax, "dax0.0")] {
        let fake = disabled();
        let mut lines = Lines::default();
        let o = WriteInfoblock { mode: Some(mode), ..WriteInfoblock::default() };
        let wrote = write_infoblock(&fake, "namespace0.0", &Filter::default(), &o, &mut lines).unwrap();
        assert_eq!((wrote.status, wrote.count), (0, 1), "{lines:?}");
        assert_eq!(lines.lines, ["wrote 1 infoblock"]);
        let stores = fake.stores();
        assert_eq!(stores[0], format!("namespace0.0/holder_class={}", &claim[..3]));
        assert!(stores.ends_with(&[
            "namespace0.0/force_raw=0\\n".into(),
            "namespace0.0/driver/unbind=namespace0.0".into()
        ]));
        let all = EnableOptions::named("all");
        assert_eq!(enable_namespaces(&fake, &all, &mut lines).unwrap().count, 1);
        assert_eq!(fake.read("bus/nd/devices/namespace0.0/holder").unwrap().trim(), claim);
    }
}

#[test]
fn a_written_btt_is_whole() {
    let fake = disabled();
    let o = WriteInfoblock { mode: Some(Mode::Sector), uuid: Some(OWN), ..WriteInfoblock::default() };
    write_infoblock(&fake, "namespace0.0", &Filter::default(), &o, &mut Lines::default()).unwrap();
    let writes: Vec<String> = fake.stores().into_iter().filter(|s| s.starts_with("pmem0@")).collect();
    let bytes: [u8; 4096] = fake.media("namespace0.0", 0, 4096).try_into().unwrap();
    let label = fake.read("bus/nd/devices/namespace0.0/uuid").unwrap();
    let parent = Uuid::parse_str(label.trim()).unwrap();
    let info = btt::Info::parse(&bytes, btt::Version::V2_0, parent, 64 << 20).unwrap();
    assert_eq!((info.uuid, info.layout.external_nlba), (OWN, 16105));
    let backup = fake.media("namespace0.0", info.layout.info2off, 4096);
    assert_eq!(backup, bytes);
    // Lane 3's first record: its own spare block.
    let flog = fake.media("namespace0.0", info.layout.logoff + 3 * 64, 64);
    assert_eq!(hex(&flog[..16]), format!("03000000{0}{0}01000000", hex(&(16105u32 + 3).to_le_bytes())));
    // The old block goes first, the new one comes last, behind its backup.
    assert_eq!(writes[0], "pmem0@0+4096");
    let backup_write = format!("pmem0@{}+4096", info.layout.info2off);
    assert_eq!(writes[writes.len() - 2..], [backup_write, "pmem0@0+4096".to_owned()]);
}

#[test]
fn an_active_namespace_keeps_its_head() {
    let fake = disabled();
    let mut lines = Lines::default();
    enable_namespaces(&fake, &EnableOptions::named("all"), &mut lines).unwrap();
    fake.stores();
    let read = ReadInfoblock { namespaces: vec!["namespace0.0".into()], ..ReadInfoblock::default() };
    assert_eq!(read_infoblocks(&fake, &read, &mut lines).unwrap().status, 240);
    let o = WriteInfoblock::default();
    let wrote = write_infoblock(&fake, "namespace0.0", &Filter::default(), &o, &mut lines).unwrap();
    assert_eq!((wrote.status, wrote.count), (240, 0));
    assert_eq!(fake.stores(), [""; 0]);

    disable_namespaces(&fake, &EnableOptions::named("all"), &mut lines).unwrap();
    let outcome = read_infoblocks(&fake, &read, &mut lines).unwrap();
    assert_eq!((outcome.status, outcome.bytes.unwrap().len()), (0, 8192));
}

fn lab() -> Fake {
    Fake::new(dump("made-lab"))
}

#[test]
fn errors_are_injected_where_the_data_lies() {
    let fake = lab();
    let mut lines = Lines::default();
    let mut inject = |name: &str, block, count, uninject| {
        let what = InjectError::Blocks { block, count, uninject };
        inject_error(&fake, name, &Filter::default(), what, false, &mut lines).unwrap().status
    };
    // fsdax: the data begins 2 MiB into the namespace. Raw: the namespace itself.
    assert_eq!(inject("namespace0.0", 8, 2, false), 0);
    assert_eq!(inject("namespace1.0", 0, 1, true), 0);
    assert_eq!(inject("namespace0.0", 126_975, 1, false), 0);
    assert_eq!(inject("namespace0.0", 126_975, 2, false), status_of_range());
    assert_eq!(
        fake.stores(),
        [
            format!("inject region0@{}+1024", (2 << 20) + 4096),
            "clear region1@0+512".to_owned(),
            format!("inject region0@{}+512", (64 << 20) - 512)
        ]
    );
    let asked =
        inject_error(&fake, "namespace1.0", &Filter::default(), InjectError::Status, false, &mut lines)
            .unwrap();
    assert_eq!(asked.json[0], serde_json::json!({ "badblocks": [{ "block": 8, "count": 1 }] }));
}

fn status_of_range() -> u8 {
    status(&nvstack_media::Error::new(nvstack_media::Kind::OutOfRange, "x"))
}

#[test]
fn all_that_is_lost_is_cleared_and_a_btt_passed_over() {
    let fake = lab();
    let mut lines = Lines::default();
    let cleared =
        clear_errors(&fake, &["namespace0.0".into()], &Filter::default(), false, &mut lines).unwrap();
    assert_eq!((cleared.status, cleared.count), (0, 1));
    assert_eq!(
        fake.stores(),
        [format!("clear region0@{}+8192", 4100 * 512), format!("clear region0@{}+4096", 131_064 * 512)]
    );
    let fake = Fake::new(dump("sysfs-sector"));
    let passed = clear_errors(&fake, &["all".into()], &Filter::default(), false, &mut lines).unwrap();
    assert_eq!((passed.status, passed.count), (1, 0));
    assert_eq!(fake.stores(), [""; 0]);
}
