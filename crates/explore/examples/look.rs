// SPDX-License-Identifier: MIT OR Apache-2.0
//! Explores and prints the summary.
#![allow(clippy::unwrap_used, clippy::panic)]
use nvstack_explore::*;
fn main() {
    let mut config = Config::quick();
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut v = || args.next().unwrap();
        match a.as_str() {
            "-m" => config.models = vec![v().parse().unwrap()],
            "-w" => config.scopes = vec![Scope::These(vec![v().parse().unwrap()])],
            "-b" => config.scopes = vec![Scope::Bounded { operations: v().parse().unwrap() }],
            "-x" => config.mutant = Some(mutant(&v()).unwrap()),
            "-d" => config.depth = v().parse().unwrap(),
            "-t" => config.threads = v().parse().unwrap(),
            "-u" => config.prune = false,
            "-T" => config.time = Some(std::time::Duration::from_secs(v().parse().unwrap())),
            _ => panic!("{a}"),
        }
    }
    let s = run(&config, &|_| ()).unwrap();
    println!("{}", serde_json::to_string_pretty(&s).unwrap());
    if let Some(v) = &s.first {
        println!("{v}");
        for s in replay(&v.case).unwrap().steps {
            println!("    {s}");
        }
    }
}
