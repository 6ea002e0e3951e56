// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs one input, or all of a folder: `cargo run -p nvstack-hostile --example one -- TARGET FILE...`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

fn main() {
    let mut args = std::env::args_os().skip(1);
    let name = args.next().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let Some(target) = nvstack_hostile::target(&name) else {
        let names: Vec<&str> = nvstack_hostile::TARGETS.iter().map(|target| target.name).collect();
        panic!("there is no target {name:?}; there are {}", names.join(", "));
    };
    for path in args {
        let input = std::fs::read(&path).expect("an input");
        println!("{}: {} bytes", path.to_string_lossy(), input.len());
        (target.run)(&input);
    }
}
