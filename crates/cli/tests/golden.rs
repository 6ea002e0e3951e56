// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that Linux wrote: each is listed as Linux shows it, and keeps every byte.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Dir, facts, harmless, run};
use serde_json::{Value, json};

/// What `list` must print for a golden image, from what is known of it.
fn expected(name: &str, facts: &Value) -> Vec<Value> {
    // An area without labels has no namespace, but the seed; a set needs its other DIMM.
    if ["empty-v1.2", "destroyed-v1.2", "il0", "il1"].contains(&name) {
        return Vec::new();
    }
    let labels = facts["labels"].as_array().unwrap();
    let namespaces = facts["namespaces"].as_array().unwrap();
    namespaces.iter().enumerate().map(|(i, n)| namespace(i, n, labels)).collect()
}

fn namespace(i: usize, n: &Value, labels: &[Value]) -> Value {
    let label = labels.iter().find(|l| l["dpa"] == n["start"]);
    let disk = if i == 0 { "pmem0".to_string() } else { format!("pmem0.{i}") };
    let mut o = serde_json::Map::new();
    o.insert("dev".into(), format!("namespace0.{i}").into());
    let size = n["size"].as_u64().unwrap();
    let raw_sector = label.and_then(|l| l["lbasize"].as_u64()).filter(|s| *s > 0).unwrap_or(512);
    if let Some(arenas) = n["btt"].as_array() {
        let sector = arenas[0]["ext_lbasize"].as_u64().unwrap();
        let data = if sector < 4096 { 512 } else { 4096 };
        let sectors: u64 = arenas.iter().map(|a| a["ext_nlba"].as_u64().unwrap()).sum();
        o.insert("mode".into(), "sector".into());
        o.insert("size".into(), (sectors * data).into());
        o.insert("uuid".into(), arenas[0]["uuid"].clone());
        o.insert("sector_size".into(), sector.into());
        o.insert("blockdev".into(), format!("{disk}s").into());
    } else if let Some(pfn) = n["pfn"].as_object() {
        let number = |key: &str| pfn[key].as_u64().unwrap();
        let devdax = pfn["sig"] == "NVDIMM_DAX_INFO";
        o.insert("mode".into(), if devdax { "devdax" } else { "fsdax" }.into());
        o.insert("map".into(), if number("mode") == 2 { "dev" } else { "mem" }.into());
        o.insert(
            "size".into(),
            (size - number("dataoff") - number("start_pad") - number("end_trunc")).into(),
        );
        o.insert("uuid".into(), pfn["uuid"].clone());
        if devdax {
            o.insert("chardev".into(), format!("dax0.{i}").into());
            o.insert("align".into(), number("align").into());
        } else {
            o.insert("sector_size".into(), raw_sector.into());
            o.insert("align".into(), number("align").into());
            o.insert("blockdev".into(), disk.into());
        }
    } else {
        o.insert("mode".into(), "raw".into());
        o.insert("size".into(), size.into());
        if let Some(label) = label {
            o.insert("uuid".into(), label["uuid"].clone());
        }
        o.insert("sector_size".into(), raw_sector.into());
        o.insert("blockdev".into(), disk.into());
    }
    if let Some(label) = label {
        o.insert("name".into(), label["name"].clone());
    }
    Value::Object(o)
}

#[test]
fn every_golden_image_is_listed_as_linux_shows_it_and_stays_as_it_is() {
    let dir = Dir::new();
    for (name, facts) in facts("golden.json") {
        let image = dir.fixture(&format!("golden/{name}"));
        let ran = harmless("list", &image, &[]);
        let want = expected(&name, &facts);
        assert_eq!(ran.status, 0, "{name}: {ran:?}");
        if want.is_empty() {
            assert_eq!(ran.out, "", "{name}");
        } else {
            // The text, not only the value: the order of the keys is part of it.
            assert_eq!(ran.out, ndctl_text(&Value::Array(want)), "{name}");
        }
        assert_eq!(ran.err.is_empty(), !name.starts_with("il"), "{name}: {}", ran.err);
        for (verb, args) in [
            ("list", &["-BDRNXiuv"][..]),
            ("read-labels", &["-j"]),
            ("read-labels", &[]),
            ("read-infoblock", &["-j"]),
        ] {
            harmless(verb, &image, args);
        }
        std::fs::remove_file(image).unwrap();
    }
}

/// json-c's layout, written once more by other means: from serde's pretty printer.
fn ndctl_text(value: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).unwrap().replace("\": ", "\":"))
}

#[test]
fn every_golden_image_is_served_read_only_without_a_byte_changed() {
    let dir = Dir::new();
    for (name, facts) in facts("golden.json") {
        let image = dir.fixture(&format!("golden/{name}"));
        let ran = harmless("serve", &image, &["--read-only", "--run", "printf %s \"$uri\""]);
        if expected(&name, &facts).is_empty() {
            assert_eq!((ran.status, ran.out.as_str()), (254, ""), "{name}: {ran:?}");
        } else {
            assert_eq!(ran.status, 0, "{name}: {ran:?}");
            assert!(ran.out.starts_with("nbd+unix:///namespace0.0?socket=/"), "{name}: {ran:?}");
        }
        std::fs::remove_file(image).unwrap();
    }
}

#[test]
fn a_whole_image_has_a_bus_a_dimm_and_a_region() {
    let dir = Dir::new();
    // The second nvdimm of a QEMU, with labels 1.2.
    let image = dir.fixture("golden/base-v1.2");
    let path = image.to_str().unwrap();
    let namespace = run(["list", path]).json()[0].clone();
    let dimm = json!({ "dev": "nmem0", "id": "8680-57341200", "handle": 2, "phys_id": 0 });
    let cookie = facts("golden.json")["base-v1.2"]["labels"][0]["isetcookie"].clone();
    let mut region = json!({
        "dev": "region0", "size": 33554432, "align": 16777216, "available_size": 0, "max_available_extent": 0,
        "type": "pmem", "iset_id": cookie, "persistence_domain": "unknown",
    });
    assert_eq!(run(["list", path, "-D"]).out, ndctl_text(&json!([dimm])));
    assert_eq!(run(["list", path, "-R"]).out, ndctl_text(&json!([region])));
    assert_eq!(
        run(["list", path, "-DN"]).out,
        ndctl_text(&json!({ "dimms": [dimm], "namespaces": [namespace] }))
    );
    let mapping = json!([{ "dimm": "nmem0", "offset": 0, "length": 33554432, "position": 0 }]);
    region = with(&region, "iset_id", "mappings", mapping);
    assert_eq!(run(["list", path, "-DR"]).out, ndctl_text(&json!({ "dimms": [dimm], "regions": [region] })));
    region = with(&region, "persistence_domain", "namespaces", json!([namespace]));
    let bus = json!([{ "provider": "ACPI.NFIT", "dev": "ndbus0", "dimms": [dimm], "regions": [region] }]);
    assert_eq!(run(["list", path, "-BDRN"]).out, ndctl_text(&bus));
    assert_eq!(run(["list", path, "-B"]).json(), json!([{ "provider": "ACPI.NFIT", "dev": "ndbus0" }]));
}

/// `object` with a key inserted behind another.
fn with(object: &Value, after: &str, key: &str, value: Value) -> Value {
    let mut out = serde_json::Map::new();
    for (k, v) in object.as_object().unwrap() {
        out.insert(k.clone(), v.clone());
        if k == after {
            out.insert(key.into(), value.clone());
        }
    }
    Value::Object(out)
}

#[test]
fn people_get_units_hexadecimal_and_no_brackets() {
    let dir = Dir::new();
    let image = dir.fixture("golden/multi4-v1.2");
    let path = image.to_str().unwrap();
    let region = run(["list", path, "-Ru"]).json();
    // Four namespaces fill 208 MiB of 256; three steps of 16 MiB are left.
    assert_eq!(region["size"], "256.00 MiB (268.44 MB)");
    assert_eq!(region["available_size"], "48.00 MiB (50.33 MB)");
    assert_eq!(region["iset_id"], "0xba90120012b4dc");
    assert_eq!(region["align"], "16.00 MiB (16.78 MB)");
    assert_eq!(
        run(["list", path, "-Du"]).json(),
        json!({ "dev": "nmem0", "id": "8680-56341200", "handle": "0x1", "phys_id": "0" })
    );
    let one = run(["list", &format!("{path}#namespace0.3"), "-u"]).json();
    assert_eq!((&one["dev"], &one["size"]), (&json!("namespace0.3"), &json!("62.00 MiB (65.01 MB)")));
    assert!(run(["list", path, "-u"]).json().is_array());
}

#[test]
fn idle_verbose_and_dax_details_are_shown_when_asked_for() {
    let dir = Dir::new();
    let image = dir.fixture("golden/multi4-v1.2");
    let path = image.to_str().unwrap();
    let seed = json!({
        "dev": "namespace0.4", "mode": "raw", "size": 0, "uuid": "00000000-0000-0000-0000-000000000000",
        "sector_size": 512, "state": "disabled",
    });
    assert_eq!(run(["list", path, "-i"]).json()[4], seed);
    let dax = run(["list", &format!("{path}#namespace0.3"), "-X"]).json()[0].clone();
    let device = json!({ "chardev": "dax0.3", "size": 65011712, "target_node": 0, "align": 2097152, "mode": "devdax" });
    assert_eq!(dax["daxregion"], json!({ "id": 0, "size": 65011712, "align": 2097152, "devices": [device] }));
    assert_eq!(dax.get("chardev"), None);
    let beta = run(["list", &format!("{path}#namespace0.1"), "-v"]).json()[0].clone();
    assert_eq!(beta["raw_uuid"], facts("golden.json")["multi4-v1.2"]["labels"][1]["uuid"]);
    assert_ne!(beta["raw_uuid"], beta["uuid"]);
    // A region without labels has no seed.
    let image = dir.fixture("golden/base-nolabel");
    assert_eq!(run(["list", image.to_str().unwrap(), "-i"]).json().as_array().unwrap().len(), 1);
}

#[test]
fn a_name_that_is_not_there_is_told_with_those_that_are() {
    let dir = Dir::new();
    let image = dir.fixture("golden/multi3-v1.1");
    for verb in ["list", "read-infoblock", "serve"] {
        let ran = run([verb, &format!("{}#namespace0.3", image.display())]);
        assert_eq!((ran.status, ran.out.as_str()), (254, ""), "{ran:?}");
        assert!(
            ran.err.contains("found namespace0.3, accepted namespace0.0, namespace0.1, namespace0.2"),
            "{ran:?}"
        );
    }
}

#[test]
fn info_blocks_are_printed_as_ndctl_prints_them() {
    let dir = Dir::new();
    let image = dir.fixture("golden/sec4096-v1.2");
    let path = image.to_str().unwrap();
    // ndctl 76.1: `ndctl read-infoblock -j -u -i sec4096-v1.2.img`.
    let want = r#"[
  {
    "dev":"namespace0.0",
    "signature":"BTT_ARENA_INFO",
    "uuid":"7d0a6f35-6317-4daa-a060-947dcc59b15b",
    "parent_uuid":"88e84fdb-cfba-4655-af3a-2d485f74a652",
    "flags":"0",
    "version":"2.0",
    "external_lbasize":4096,
    "external_nlba":7921,
    "internal_lbasize":4096,
    "internal_nlba":8177,
    "nfree":256,
    "infosize":4096,
    "nextoff":"0",
    "dataoff":"0x1000",
    "mapoff":"0x1ff3000",
    "logoff":"0x1ffb000",
    "info2off":"0x1fff000"
  }
]
"#;
    let ran = run(["read-infoblock", path, "-ju"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), (want, "nvstack read-infoblock: read 1 infoblock\n"));
    let file = run(["read-infoblock", "-i", path, "-u"]);
    let escaped = path.replace('/', "\\/");
    assert_eq!(file.out, want.replace("\"dev\":\"namespace0.0\"", &format!("\"file\":\"{escaped}\"")));

    let image = dir.fixture("golden/devdax-dev-2M");
    let block = run(["read-infoblock", image.to_str().unwrap(), "-j"]).json()[0].clone();
    let want = json!({
        "dev": "namespace0.0", "signature": "NVDIMM_DAX_INFO", "uuid": "93611f91-7dca-4d1d-8bf1-f6e9a184381f",
        "parent_uuid": "bf5e976a-242d-4a9e-8034-1ba708b388b1", "flags": 0, "version": "1.4", "dataoff": 2097152,
        "npfns": 15872, "mode": 2, "start_pad": 0, "end_trunc": 0, "align": 2097152, "page_size": 4096,
        "page_struct_size": 64,
    });
    assert_eq!(ndctl_text(&block), ndctl_text(&want));
}

#[test]
fn info_blocks_as_bytes_are_the_first_8_kib_of_each_namespace() {
    let dir = Dir::new();
    let image = dir.fixture("golden/multi3-v1.1");
    let bytes = std::fs::read(&image).unwrap();
    let heads: Vec<u8> = [0, 32, 96].iter().flat_map(|m| bytes[m << 20..(m << 20) + 8192].to_vec()).collect();
    let ran = run(["read-infoblock", image.to_str().unwrap()]);
    assert!(ran.bytes == heads, "{} bytes", ran.bytes.len());
    let out = dir.path("out.bin");
    let args = [image.display().to_string() + "#namespace0.1", "-o".into(), out.display().to_string()];
    let ran = run(["read-infoblock".into()].iter().chain(&args));
    assert_eq!((ran.status, ran.out.as_str()), (0, ""));
    assert!(std::fs::read(&out).unwrap() == heads[8192..16384]);
    // The output is never written over.
    let ran = run(["read-infoblock".into()].iter().chain(&args));
    assert_eq!(ran.status, 239, "{ran:?}");
    assert_eq!(std::fs::read(&out).unwrap().len(), 8192);
}

#[test]
fn labels_are_printed_as_ndctl_prints_them() {
    let dir = Dir::new();
    for (name, version) in [("golden/steps-v1.2", 2), ("golden/multi3-v1.1", 1)] {
        let image = dir.fixture(name);
        let dimm = run(["read-labels", image.to_str().unwrap(), "-j"]).json()[0].clone();
        let (size, slots) = if version == 2 { (256, 510) } else { (128, 1020) };
        for index in dimm["index"].as_array().unwrap() {
            let seq = &index["seq"];
            let want = json!({ "signature": "NAMESPACE_INDEX", "major": 1, "minor": version, "labelsize": size, "seq": seq, "nslot": slots });
            assert_eq!(ndctl_text(index), ndctl_text(&want));
        }
        // Every label in use, with its values; stale ones are shown beside them.
        let facts = facts("golden.json");
        for label in facts[name.strip_prefix("golden/").unwrap()]["labels"].as_array().unwrap() {
            let shown =
                dimm["label"].as_array().unwrap().iter().find(|l| l["slot"] == label["slot"]).unwrap();
            for key in
                ["uuid", "name", "position", "nlabel", "flags", "isetcookie", "lbasize", "dpa", "rawsize"]
            {
                assert_eq!(shown[key], label[key], "{name} {key}");
            }
            assert_eq!(shown.get("type_guid").is_some(), version == 2);
        }
    }
    let image = dir.fixture("golden/sec4096-v1.2");
    let shown = run(["read-labels", image.to_str().unwrap(), "-u"]).json();
    let label = shown["label"].as_array().unwrap().iter().find(|l| l["flags"] == 0).unwrap();
    // Bytes in the order of the medium, as ndctl has it.
    assert_eq!(label["type_guid"], "79d3f066-f3b4-7440-ac43-0d3318b78cdb");
    assert_eq!(label["abstraction_guid"], "fc3b6318-3517-1742-8ac9-17239282d3f8");
    assert_eq!((&label["rawsize"], &label["dpa"]), (&json!("32.00 MiB (33.55 MB)"), &json!("0")));
    let index = run(["read-labels", image.to_str().unwrap(), "-I", "-j"]).json();
    assert_eq!(index[0].as_object().unwrap().keys().collect::<Vec<_>>(), ["dev", "index"]);
}

#[test]
fn labels_as_bytes_are_the_area_or_a_range_of_it() {
    let dir = Dir::new();
    let image = dir.fixture("golden/lsa256K");
    let bytes = std::fs::read(&image).unwrap();
    let area = &bytes[bytes.len() - (256 << 10)..];
    let path = image.to_str().unwrap();
    assert!(run(["read-labels", path]).bytes == area);
    assert!(run(["read-labels", path, "-I"]).bytes == area[..1024]);
    assert!(run(["read-labels", path, "-O", "1K", "-s", "0x80"]).bytes == area[1024..1152]);
    assert!(run(["read-labels", path, "-O", "255K"]).bytes == area[255 << 10..]);
    let ran = run(["read-labels", path, "-O", "256K", "-s", "1"]);
    assert_eq!((ran.status, ran.bytes.len()), (1, 0), "as every label verb: {ran:?}");
    let ran = run(["read-labels", dir.fixture("golden/base-nolabel").to_str().unwrap()]);
    assert_eq!((ran.status, ran.out.as_str()), (254, ""), "{ran:?}");
    assert!(ran.err.contains("--label-size"), "{ran:?}");
}
