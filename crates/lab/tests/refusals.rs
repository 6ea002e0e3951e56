// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every refusal: place, what was found, what is accepted.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use nvstack_lab::Lab;
use nvstack_media::Kind;

fn refused(text: &str, words: &str) {
    let e = Lab::parse(text, "a/lab.toml").expect_err(text);
    assert_eq!(e.kind(), Kind::Invalid, "{e}");
    let told = e.to_string();
    let told = told.strip_prefix("a/lab.toml:").unwrap_or_else(|| panic!("{told}"));
    assert_eq!(told, words, "\n{text}");
}

/// In a bus with two DIMMs of 16 MiB with 128 KiB of labels each, from line 2 on; `text` begins at line 5.
fn refused_beside_dimms(text: &str, words: &str) {
    let dimms = "[[bus]]\n\
        dimm = [\n\
        { memory = \"16M\", label-size = \"128K\" },\n\
        { memory = \"16M\", label-size = \"128K\" }]\n";
    refused(&format!("{dimms}{text}"), words);
}

#[test]
fn toml_that_is_none() {
    refused("", "1:1: read lab: found no bus, accepted [[bus]], once or more");
    refused("[[bus]]\nprovider = ", "2:12: read TOML: string values must be quoted, expected literal string");
    refused("[[bus]]\na = 1\na = 2", "3:1: read TOML: found a: duplicate key");
    refused("version = 2\n[[bus]]", "1:11: read lab: found version 2, accepted 1");
    refused("bus = []", "1:1: read lab: found no bus, accepted [[bus]], once or more");
    refused("bus = [0]", "1:8: read bus of lab: found 0, accepted tables, each begun with [[bus]]");
    refused(
        "[bus]\n",
        "1:1: read bus of lab: found [bus], accepted an array of tables, each begun with [[bus]]",
    );
}

#[test]
fn keys_that_are_none() {
    refused(
        "[[bus]]\n[[bus.dimm]]\n  lable-size = 0",
        "3:3: read [[bus.dimm]]: found the key \"lable-size\", accepted \"label-size\"",
    );
    refused("[[bus]]\nDimm = 1", "2:1: read [[bus]]: found the key \"Dimm\", accepted \"dimm\"");
    refused(
        "[[bus]]\n\"what is this\" = 1",
        "2:1: read [[bus]]: found the key \"what is this\", accepted \"provider\", \"dimm\", \"region\", \
         \"range\", \"ram\"",
    );
    refused_beside_dimms(
        "region = [{ members = [{ dim = 0 }] }]",
        "5:26: read a member of [[bus.region]]: found the key \"dim\", accepted \"dimm\"",
    );
    refused(
        "[[bus]]\n[[bus.ram]]\nlabel-size = 1",
        "3:1: read [[bus.ram]]: found the key \"label-size\", accepted \"file\", \"memory\", \"size\", \"start\", \
         \"read-only\", \"align\", \"persistence\", \"numa-node\", \"target-node\", \"range-index\"",
    );
}

#[test]
fn values_of_a_wrong_kind() {
    let dimm = |line: &str, words: &str| {
        refused(&format!("[[bus]]\n[[bus.dimm]]\n{line}"), &format!("3:{words}"));
    };
    dimm("file = 1", "8: read file of [[bus.dimm]]: found 1, accepted a string that is not empty");
    dimm("file = ''", "8: read file of [[bus.dimm]]: found '', accepted a string that is not empty");
    dimm("file = \"a\\u0000\"", "8: read [[bus.dimm]]: found a zero byte in a path, accepted a path");
    let bytes = "accepted bytes, as a number or as a string with one of K M G T at its end";
    for size in ["\"64MB\"", "-1", "1.5", "true", "[1, 2]", "\"\""] {
        dimm(&format!("memory = {size}"), &format!("10: read memory of [[bus.dimm]]: found {size}, {bytes}"));
    }
    dimm("memory = 0", "10: read [[bus.dimm]]: found 0 bytes, accepted a multiple of 4096, not 0");
    dimm("memory = 5000", "10: read [[bus.dimm]]: found 5000 bytes, accepted a multiple of 4096");
    dimm(
        "label-size = 0x1001\nfile = 'a'",
        "14: read [[bus.dimm]]: found 4097 bytes, accepted a multiple of 4096",
    );
    dimm(
        "label-size = '4G'\nfile = 'a'",
        "14: read [[bus.dimm]]: found a label area of 4294967296 bytes, accepted 0xffffffff bytes at most",
    );
    dimm(
        "label-size = '1M'\nmemory = '1M'",
        "14: read [[bus.dimm]]: found a label area of 1048576 bytes, accepted less than the DIMM's 1048576 bytes",
    );
    dimm(
        "serial = 0x100000000\nfile = 'a'",
        "10: read serial of [[bus.dimm]]: found 0x100000000, accepted 0 to 0xffffffff",
    );
    dimm(
        "vendor = 0x10000\nfile = 'a'",
        "10: read vendor of [[bus.dimm]]: found 0x10000, accepted 0 to 0xffff",
    );
    dimm("location = 256\nfile = 'a'", "12: read location of [[bus.dimm]]: found 256, accepted 0 to 0xff");
    let flags = "\"save_fail\", \"restore_fail\", \"flush_fail\", \"not_armed\", \"smart_event\", \"map_fail\", \
                 \"smart_notify\"";
    dimm(
        "flags = ['not_armed', 'armed']\nfile = 'a'",
        &format!("23: read flags of [[bus.dimm]]: found 'armed', accepted each of {flags} once"),
    );
    dimm(
        "flags = ['not_armed', 'not_armed']\nfile = 'a'",
        &format!("23: read flags of [[bus.dimm]]: found 'not_armed', accepted each of {flags} once"),
    );
    dimm(
        "flags = 'not_armed'\nfile = 'a'",
        &format!("9: read flags of [[bus.dimm]]: found 'not_armed', accepted an array of {flags}"),
    );
    refused(
        "[[bus]]\nprovider = 'a b'\ndimm = [{ memory = 4096 }]",
        "2:12: read [[bus]]: found ' ' in the provider's name, accepted letters, digits and signs, without a blank",
    );
}

#[test]
fn one_place_for_bytes() {
    let dimm = |line: &str, words: &str| refused(&format!("[[bus]]\n[[bus.dimm]]\n{line}"), words);
    dimm("serial = 1", "2:1: read [[bus.dimm]]: found neither file nor memory, accepted one of them");
    dimm(
        "file = 'a'\nmemory = 4096",
        "4:10: read [[bus.dimm]]: found both file and memory, accepted one of them",
    );
    dimm(
        "memory = 4096\nsize = 4096",
        "4:8: read [[bus.dimm]]: found size beside memory, accepted size beside file only",
    );
}

#[test]
fn buses_of_one_kind() {
    refused(
        "[[bus]]",
        "1:1: read [[bus]]: found a bus with nothing on it, accepted [[bus.dimm]], [[bus.range]] or [[bus.ram]]",
    );
    refused(
        "[[bus]]\ndimm = [{ memory = 4096 }]\nram = [{ memory = '1M' }]",
        "3:7: read [[bus]]: found [[bus.ram]] beside DIMMs or ranges, accepted it on a bus of its own",
    );
    refused(
        "[[bus]]\nram = [{ memory = '128K' }]",
        "2:8: read [[bus.ram]]: found 131072 bytes, accepted more than the 131072 of the label area",
    );
}

#[test]
fn twins() {
    let two = |rest: &str, words: &str| {
        refused(&format!("[[bus]]\n[[bus.dimm]]\nmemory = 4096\n[[bus.dimm]]\nmemory = 4096\n{rest}"), words);
    };
    two(
        "handle = 1",
        "6:10: read [[bus.dimm]]: found handle 0x1, which DIMM 0 has, accepted a handle for each DIMM of a bus",
    );
    two(
        "serial = 0x123456",
        "6:10: read [[bus.dimm]]: found the identity of DIMM 0: 8680-56341200, accepted a serial (vendor, location or \
         date) of its own",
    );
    // Another maker may use the same number, and so may another machine.
    Lab::parse("[[bus]]\ndimm = [{ memory = 4096 }, { memory = 4096, serial = 0x123456, vendor = 1 }]", "x")
        .unwrap();
    Lab::parse("[[bus]]\ndimm = [{ memory = 4096 }]\n[[bus]]\ndimm = [{ memory = 4096 }]", "x").unwrap();
}

#[test]
fn members_that_are_none() {
    let region = |members: &str, words: &str| {
        refused_beside_dimms(&format!("region = [{{ {members} }}]"), &format!("5:{words}"));
    };
    let accepted = "accepted 1 to 32 of them, each the number of a DIMM or a table";
    region("start = 0", &format!("11: read [[bus.region]]: found 0 members, {accepted}"));
    region("members = []", &format!("23: read [[bus.region]]: found 0 members, {accepted}"));
    region(
        "members = [0, 2]",
        "27: read [[bus.region]]: found DIMM 2, accepted 0 to 1 (DIMMs are counted from 0 on each bus)",
    );
    region(
        "members = [0, 0]",
        "27: read [[bus.region]]: found DIMM 0 a second time, accepted each once in a region",
    );
    region(
        "members = [{ size = 4096 }]",
        "24: read [[bus.region]]: found a member without dimm, accepted dimm = N",
    );
    region(
        "members = [{ dimm = 0, position = 1 }, 1]",
        "52: read [[bus.region]]: found position 1 a second time, accepted each position once",
    );
    region(
        "members = [{ dimm = 0, position = 1 }]",
        "24: read [[bus.region]]: found position 1, accepted 0 to 0",
    );
    region(
        "members = ['nmem0']",
        "24: read members of [[bus.region]]: found 'nmem0', accepted an array of numbers of DIMMs, or of tables with dimm = N",
    );
    region(
        "members = [{ dimm = 0, region-offset = 256 }, 1]",
        "59: lay out the region: found region-offset 256 at position 1, accepted more than 256, that of the position \
         before",
    );
    refused(
        "[[bus]]\nrange = [{ memory = '1M' }]\nregion = [{ members = [0] }]",
        "3:24: read [[bus.region]]: found DIMM 0, accepted [[bus.dimm]] first",
    );
}

#[test]
fn lines_and_options() {
    let region = |rest: &str, words: &str| {
        refused_beside_dimms(&format!("region = [{{ members = [0, 1], {rest} }}]"), &format!("5:{words}"));
    };
    for lines in ["0", "32", "300"] {
        region(
            &format!("interleave = {lines}"),
            &format!(
                "44: read [[bus.region]]: found lines of {lines} bytes, accepted a power of two from 64 to 1 GiB, or \
                 \"concat\""
            ),
        );
    }
    region(
        "interleave = \"cat\"",
        "44: read interleave of [[bus.region]]: found \"cat\", accepted bytes, or \"concat\"",
    );
    region(
        "interleave = '1M'",
        "11: lay out the region: found members of 16646144 bytes, accepted a multiple of their lines of 1048576 bytes",
    );
    region("type = 'ram'", "38: read type of [[bus.region]]: found 'ram', accepted \"pmem\", \"volatile\"");
    region("read-only = 1", "43: read read-only of [[bus.region]]: found 1, accepted true or false");
    region(
        "persistence = 'no'",
        "45: read persistence of [[bus.region]]: found 'no', accepted \"cpu_cache\", \"memory_controller\", \"unknown\"",
    );
    region("numa-node = 2000", "43: read [[bus.region]]: found 2000, accepted 0 to 1023, or \"none\"");
    region("numa-node = -1", "43: read numa-node of [[bus.region]]: found -1, accepted bytes, or \"none\"");
    region("range-index = 0", "45: read [[bus.region]]: found range-index 0, accepted 1 to 0xffff");
    region("start = 100", "39: read [[bus.region]]: found 100 bytes, accepted a multiple of 4096");
    for align in ["4096", "12288", "'64M'"] {
        let e = Lab::parse(
            &format!("[[bus]]\ndimm = [{{ memory = '16M' }}, {{ memory = '16M' }}]\nregion = [{{ members = [0, 1], align = {align} }}]"),
            "lab.toml",
        )
        .unwrap_err();
        let accepted =
            "accepted for each of 2 DIMMs a power of two from 4096 on, all together at most 33554432";
        assert!(e.to_string().ends_with(accepted), "{e}");
    }
    refused_beside_dimms(
        "region = [{ members = [0], range-index = 7 },\n{ members = [1], range-index = 7 }]",
        "6:1: read [[bus]]: found range-index 7 a second time, accepted each once on a bus",
    );
}

#[test]
fn parts_of_dimms() {
    let region = |text: &str, words: &str| refused_beside_dimms(&format!("region = [{text}]"), words);
    region(
        "{ members = [{ dimm = 0, size = '16M' }] }",
        "5:24: lay out the region: found 16777216 bytes from 0x0 on of DIMM 0, accepted a part of its 16646144 bytes of \
         persistent memory",
    );
    region(
        "{ members = [{ dimm = 0, offset = '16M' }] }",
        "5:24: lay out the region: found nothing from 0x1000000 on of DIMM 0, accepted a part of its 16646144 bytes of \
         persistent memory",
    );
    region(
        "{ members = [{ dimm = 0, offset = 100 }] }",
        "5:45: read a member of [[bus.region]]: found 100 bytes, accepted a multiple of 4096",
    );
    region(
        "{ members = [{ dimm = 0, size = '1M' }, { dimm = 1, size = '2M' }] }",
        "5:51: lay out the region: found a member of 2097152 bytes, accepted 1048576 bytes as on line 5: members of \
         one size",
    );
    region(
        "{ members = [{ dimm = 0, size = '2M' }] },\n{ members = [{ dimm = 0, offset = '1M' }] }",
        "6:14: lay out the region: found bytes 1048576 to 16646144 of DIMM 0, accepted none of 0 to 2097152, which line \
         5 has",
    );
}

#[test]
fn physical_addresses() {
    refused_beside_dimms(
        "region = [{ members = [0], start = '4G' },\n{ members = [1], start = 0x100100000 }]",
        "6:1: lay out the region: found physical addresses 0x100100000 to 0x1010e0000, accepted none of 0x100000000 to \
         0x100fe0000, which the region of line 5 has",
    );
    refused_beside_dimms(
        "region = [{ members = [0], start = 0xffff_ffff_ff00_0000 }]",
        "5:11: lay out the region: found 16646144 bytes from 0xffffffffff000000 on, accepted physical addresses below \
         0x10000000000000",
    );
    // Buses are in one machine.
    refused(
        "[[bus]]\nrange = [{ memory = '1M', start = '4G' }]\n[[bus]]\nrange = [{ memory = '1M', start = '4G' }]",
        "4:10: lay out the region: found physical addresses 0x100000000 to 0x100100000, accepted none of 0x100000000 to \
         0x100100000, which the region of line 2 has",
    );
}

#[test]
fn files_that_are_no_lab() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lab.toml");
    assert_eq!(Lab::load(&path).unwrap_err().kind(), Kind::NotFound);
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    let e = Lab::load(&path).unwrap_err();
    assert!(e.to_string().contains("lab.toml: read lab: accepted TOML, which is UTF-8"), "{e}");
    // An image, say.
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let e = Lab::load(&path).unwrap_err();
    assert!(e.to_string().ends_with("found a longer file, accepted 1048576 bytes of TOML at most"), "{e}");
    std::fs::write(&path, "[[bus]]\ndimm = [{ file = 'x.img' }]").unwrap();
    let lab = Lab::load(&path).unwrap();
    assert_eq!(lab.buses[0].dimms[0].backing, nvstack_lab::Backing::File(dir.path().join("x.img"), None));
}

#[test]
fn more_than_anybody_has() {
    let lab = |ranges: usize| format!("[[bus]]\n{}", "[[bus.range]]\nmemory = 4096\n".repeat(ranges));
    // The file and the bus are tables too.
    Lab::parse(&lab(4094), "x").unwrap();
    let e = Lab::parse(&lab(4095), "x").unwrap_err();
    assert_eq!(e.to_string(), "x:8190:1: read [[bus.range]]: found one more table, accepted 4096 in all");
}
