// SPDX-License-Identifier: MIT OR Apache-2.0
//! `create`: an image as Linux would have made it, and nothing where that cannot be.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::os::unix::fs::MetadataExt;

use common::{Dir, facts, harmless, run};
use serde_json::Value;

/// Makes an image and gives its namespace's object.
fn create(dir: &Dir, name: &str, args: &[&str]) -> (std::path::PathBuf, Value) {
    let path = dir.path(name);
    let mut all = vec!["create", path.to_str().unwrap()];
    all.extend(args);
    let ran = run(&all);
    assert_eq!(ran.err, "", "{args:?}");
    let made = ran.json();
    // What create says is what list finds, in a file that is as large as asked for.
    let listed = harmless("list", &path, &[]);
    assert_eq!((&listed.json()[0], listed.err.as_str()), (&made, ""), "{args:?}");
    (path, made)
}

/// Makes what Linux made: the same geometry, the same labels but for the uuids.
#[test]
fn an_image_is_what_linux_makes_of_the_same_wish() {
    let dir = Dir::new();
    let golden = facts("golden.json");
    for (name, args) in [
        ("sec512-v1.1", &["-V", "1.1", "-l", "512"][..]),
        ("sec4096-v1.1", &["-V", "1.1", "--dimm", "4"]),
        ("sec520-v1.1", &["-V", "1.1", "-l", "520", "--dimm", "2"]),
        ("sec4160-v1.1", &["--label-version=1.1", "-l", "4160", "--dimm", "6"]),
        ("sec512-v1.2", &["-l", "512"]),
        ("sec4096-v1.2", &["--sector-size", "4K", "--dimm", "4"]),
        ("sec4104-v1.2", &["-l", "4104", "--dimm", "5"]),
        ("nolabel-sector4096", &["--label-size", "0"]),
    ] {
        let facts = &golden[name];
        let size = facts["raw_size"].to_string();
        let label = &facts["labels"][0];
        let mut all = vec!["-s", &size];
        all.extend(args);
        if let Some(name) = label["name"].as_str() {
            all.extend(["-n", name]);
        }
        let (path, made) = create(&dir, name, &all);
        assert_eq!(path.metadata().unwrap().len().to_string(), size);

        let block = run(["read-infoblock", path.to_str().unwrap(), "-j"]).json()[0].clone();
        let want = &facts["namespaces"][0]["btt"][0];
        for (key, fact) in [
            ("external_lbasize", "ext_lbasize"),
            ("external_nlba", "ext_nlba"),
            ("internal_lbasize", "int_lbasize"),
            ("internal_nlba", "int_nlba"),
            ("nfree", "nfree"),
            ("infosize", "infosize"),
            ("nextoff", "nextoff"),
            ("dataoff", "dataoff"),
            ("mapoff", "mapoff"),
            ("logoff", "logoff"),
            ("info2off", "info2off"),
            ("flags", "flags"),
        ] {
            assert_eq!(block[key], want[fact], "{name} {key}");
        }
        assert_eq!(block["version"], format!("{}.{}", want["major"], want["minor"]));
        assert_eq!(block["uuid"], made["uuid"]);

        if label.is_null() {
            assert_eq!(block["parent_uuid"], "00000000-0000-0000-0000-000000000000");
            continue;
        }
        let dimm = run(["read-labels", path.to_str().unwrap(), "-j"]).json()[0].clone();
        let seqs: Vec<_> = dimm["index"].as_array().unwrap().iter().map(|i| i["seq"].clone()).collect();
        assert_eq!(seqs, [2, 1], "two updates of a fresh area");
        let shown = &dimm["label"][1];
        for key in ["name", "flags", "nlabel", "position", "isetcookie", "lbasize", "dpa", "rawsize", "slot"]
        {
            assert_eq!(shown[key], label[key], "{name} {key}");
        }
        if label.get("type_guid").is_some() {
            assert_eq!(shown["type_guid"], "79d3f066-f3b4-7440-ac43-0d3318b78cdb");
            assert_eq!(shown["abstraction_guid"], "fc3b6318-3517-1742-8ac9-17239282d3f8");
        }
        assert_eq!(block["parent_uuid"], shown["uuid"], "{name}");
        assert_ne!(shown["uuid"], block["uuid"]);
    }
}

#[test]
fn raw_images_and_options_are_as_asked_for() {
    let dir = Dir::new();
    let uuid = "90313ca2-0b0b-4e6e-8d3b-0242ac130002";
    let (path, made) = create(&dir, "raw.img", &["-s", "64M", "-m", "raw", "-n", "my/raw", "-u", uuid]);
    let want = format!(
        "{{\n  \"dev\":\"namespace0.0\",\n  \"mode\":\"raw\",\n  \"size\":50331648,\n  \"uuid\":\"{uuid}\",\n  \
         \"sector_size\":512,\n  \"blockdev\":\"pmem0\",\n  \"name\":\"my\\/raw\"\n}}\n"
    );
    assert_eq!(
        run(["list", path.to_str().unwrap(), "-u"]).out.replace("\"48.00 MiB (50.33 MB)\"", "50331648"),
        want
    );
    assert_eq!(made["name"], "my/raw");
    let (path, made) = create(&dir, "raw4k.img", &["-s", "64M", "-m", "raw", "-l", "4096", "-V", "1.1"]);
    assert_eq!(made["sector_size"], 4096);
    let label = run(["read-labels", path.to_str().unwrap(), "-j"]).json()[0]["label"][1].clone();
    assert_eq!(label["isetcookie"], 0x24_68ac_0012_3456u64);
    // Regions below the alignment of Linux are given out by pages.
    let (_, made) = create(&dir, "small.img", &["-s", "1M", "-m", "raw"]);
    assert_eq!(made["size"], (1 << 20) - (128 << 10));
    let (_, made) = create(&dir, "bare.img", &["-s", "68K", "-m", "raw", "--label-size", "0"]);
    assert_eq!((made["size"].as_u64(), made.get("uuid")), (Some(68 << 10), None));
    let (_, made) = create(&dir, "tiny.img", &["-s", "0x2000400", "--label-size", "1K"]);
    assert_eq!(made["size"], 32_444_416);
}

#[test]
fn a_terabyte_is_made_without_writing_one() {
    let dir = Dir::new();
    let (path, made) = create(&dir, "big.img", &["-s", "600G"]);
    let meta = path.metadata().unwrap();
    assert_eq!(meta.len(), 600 << 30);
    assert!(meta.blocks() * 512 < 4 << 20, "{} blocks", meta.blocks());
    // Two arenas: 512 GiB, and the rest.
    assert!(made["size"].as_u64().unwrap() > 598 << 30, "{made}");
    let first = run(["read-infoblock", path.to_str().unwrap(), "-j"]).json()[0].clone();
    assert_eq!(first["nextoff"], 1u64 << 39);
}

#[test]
fn a_file_that_is_there_is_never_touched() {
    let dir = Dir::new();
    let path = dir.path("there.img");
    std::fs::write(&path, "precious").unwrap();
    let link = dir.path("link.img");
    std::os::unix::fs::symlink(dir.path("nowhere"), &link).unwrap();
    for path in [&path, &link] {
        let ran = run(["create", path.to_str().unwrap(), "-s", "64M"]);
        assert_eq!((ran.status, ran.out.as_str()), (239, ""), "EEXIST: {ran:?}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    assert!(!dir.path("nowhere").exists());
}

#[test]
fn what_cannot_be_made_leaves_nothing_behind() {
    let dir = Dir::new();
    let path = dir.path("no.img");
    let long = "n".repeat(64);
    for (args, status, word) in [
        (&["-s", "0"][..], 234, "4096"),
        (&["-s", "128K"], 234, "labels"),
        (&["-s", "64M", "--label-size", "1000"], 234, "1024"),
        (&["-s", "64M", "--label-size", "65M"], 234, "labels"),
        (&["-s", "33554433"], 234, "4096"),
        (&["-s", "16M"], 228, "16777216"),
        (&["-s", "16M", "--label-size", "0"], 228, "16781312"),
        (&["-s", "64M", "-l", "1024"], 234, "512 520 528 4096 4104 4160 4224"),
        (&["-s", "64M", "-l", "4097"], 234, "512 520 528 4096 4104 4160 4224"),
        (&["-s", "64M", "-m", "raw", "-l", "520"], 234, "512 4096"),
        (&["-s", "64M", "-n", &long], 234, "63 bytes"),
        (&["-s", "64M", "-n", "x", "--label-size", "0"], 234, "label"),
        (&["-s", "64M", "-u", "00000000-0000-0000-0000-000000000000"], 234, "uuid"),
        (&["-s", "4194304T"], 228, "size of the image"),
        (&["-s", "8388608T"], 234, "as files have"),
    ] {
        let mut all = vec!["create", path.to_str().unwrap()];
        all.extend(args);
        let ran = run(&all);
        assert_eq!((ran.status, ran.out.as_str()), (status, ""), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(word) && ran.err.contains("no.img"), "{args:?}: {}", ran.err);
        assert!(!path.exists(), "{args:?} left a file");
    }
    let ran = run(["create", dir.path("no/such/x.img").to_str().unwrap(), "-s", "64M"]);
    assert_eq!(ran.status, 254, "{ran:?}");
}
