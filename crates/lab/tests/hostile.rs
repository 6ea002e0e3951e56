// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whatever the text: a lab, or an error with a place in it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use nvstack_lab::{KEYS, Lab};
use nvstack_media::Kind;
use proptest::prelude::*;

const README: &str = include_str!("../README.md");

fn survives(text: &str) {
    let Err(e) = Lab::parse(text, "lab.toml") else { return };
    assert_eq!(e.kind(), Kind::Invalid, "{e}");
    let told = e.to_string();
    let mut place = told.strip_prefix("lab.toml:").unwrap_or_else(|| panic!("{told}")).splitn(3, ':');
    let (line, column): (usize, usize) =
        (place.next().unwrap().parse().unwrap(), place.next().unwrap().parse().unwrap());
    // The place is one of the text: its end at most.
    let lines: Vec<&str> = text.split('\n').collect();
    assert!((1..=lines.len()).contains(&line), "{told}\n{text:?}");
    assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "{told}\n{text:?}");
}

/// Keys and values that pass the grammar.
fn statement() -> impl Strategy<Value = String> {
    let keys: Vec<&str> = KEYS.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    let tables = ["[[bus]]", "[[bus.dimm]]", "[[bus.region]]", "[[bus.range]]", "[[bus.ram]]", "[bus]"];
    let value = prop_oneof![
        any::<u64>().prop_map(|n| format!("{n:#x}")),
        any::<i64>().prop_map(|n| n.to_string()),
        (0u64..70).prop_map(|n| format!("{}", (1u128 << n) * 4096)),
        Just("'64M'".to_owned()),
        Just("'16777215T'".to_owned()),
        Just("'concat'".to_owned()),
        Just("true".to_owned()),
        Just("1e400".to_owned()),
        Just("2020-01-01".to_owned()),
        Just("[0, 1]".to_owned()),
        Just("[{ dimm = 0, offset = '1M', region-offset = 18446744073709547520 }, 1]".to_owned()),
        "\\PC{0,8}".prop_map(|text| format!("{text:?}")),
    ];
    prop_oneof![
        2 => prop::sample::select(tables.to_vec()).prop_map(str::to_owned),
        1 => Just("[[bus.dimm]]\nmemory = '4M'".to_owned()),
        3 => (prop::sample::select(keys), value).prop_map(|(key, value)| format!("{key} = {value}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        survives(&text);
    }

    #[test]
    fn any_statements(statements in prop::collection::vec(statement(), 0..12)) {
        survives(&statements.join("\n"));
        survives(&format!("[[bus]]\n[[bus.dimm]]\nmemory = '4M'\n{}", statements.join("\n")));
    }

    #[test]
    fn a_damaged_example(which in 1usize..4, at in any::<prop::sample::Index>(), len in 0usize..20, put in "\\PC{0,3}") {
        let text = README.split("```toml\n").nth(which).unwrap().split_once("```").unwrap().0;
        let chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        let end = (at + len).min(chars.len());
        let damaged: String = chars[..at].iter().copied().chain(put.chars()).chain(chars[end..].iter().copied()).collect();
        survives(&damaged);
    }
}

#[test]
fn deep_and_wide() {
    survives(&"[".repeat(100_000));
    survives(&format!("bus = {}", "[".repeat(100_000)));
    survives(&format!("bus = {}{}", "[".repeat(70), "]".repeat(70)));
    survives(&"{ a = ".repeat(100_000));
    survives(&"a.".repeat(50_000));
    survives(&"[[bus]]\n".repeat(50_000));
    survives(&format!("[[bus]]\n{} = 1", "x".repeat(500_000)));
    for key in ["dimm", "range", "ram"] {
        survives(&format!("[[bus]]\n{key} = [{}]", "{memory=4096},".repeat(70_000)));
        survives(&format!("[[bus]]\n{key} = [{}]", "{memory=1048576},".repeat(4000)));
    }
    survives(&format!("[[bus]]\ndimm = [{{memory=4096}}]\nregion = [{}]", "{members=[0]},".repeat(4000)));
    survives("\u{feff}[[bus]]\r\nfoo = 1\r\n");
    survives("[[bus]]\n# \u{0}\n");
}
