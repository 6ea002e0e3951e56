// SPDX-License-Identifier: MIT OR Apache-2.0
//! Explores and prints the summary.
#![allow(clippy::unwrap_used, clippy::panic)]
use nvstack_explore::*;
fn main() {
    let mut config = Config::quick();
    let mut verbose = false;
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut v = || args.next().unwrap();
        let n = |s: String| s.parse().unwrap();
        match a.as_str() {
            "-m" => config.models = vec![v().parse().unwrap()],
            "-w" => config.scopes = vec![Scope::These(vec![v().parse().unwrap()])],
            "-b" => config.scopes = vec![Scope::Bounded { operations: n(v()) }],
            "-F" => config.scopes = vec![Scope::Faults { operations: n(v()) }],
            "-L" => config.scopes = vec![Scope::Lost { operations: n(v()) }],
            "-R" => config.scopes = vec![Scope::Random { workloads: n(v()) as u64, schedules: 20 }],
            "-C" => config.scopes = vec![Scope::Creation],
            "-D" => config.scopes = vec![Scope::Damage { pairs: n(v()) as u64 }],
            "-x" => config.mutant = Some(mutant(&v()).unwrap()),
            "-d" => config.depth = v().parse().unwrap(),
            "-t" => config.threads = v().parse().unwrap(),
            "-N" => config = Config::normal(),
            "-Y" => config = Config::long(),
            "-u" => config.prune = false,
            "-v" => verbose = true,
            "-T" => config.time = Some(std::time::Duration::from_secs(v().parse().unwrap())),
            _ => panic!("{a}"),
        }
    }
    let s = run(&config, &|_| ()).unwrap();
    println!(
        "{}/{} states {} damaged {} images {} ({} in recovery) recoveries {} sampled {} cut {} late {} {:.2}s",
        s.workloads,
        s.of,
        s.states,
        s.damaged,
        s.images,
        s.images_in_recovery,
        s.recoveries,
        s.sampled,
        s.cut_short,
        s.out_of_time,
        s.elapsed
    );
    if let Some(v) = &s.first {
        print!("{v}");
        if verbose {
            for s in replay(&v.case).unwrap().steps {
                println!("    {s}");
            }
        }
    }
}
