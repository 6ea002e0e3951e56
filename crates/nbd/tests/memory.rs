// SPDX-License-Identifier: MIT OR Apache-2.0
//! What clients can make the server hold. Alone in its process, since it looks at the process's memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod common;

use common::{Bed, Ram, wait_for};

const CLIENTS: usize = 100;

/// Bytes of memory that the process has in use.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn announced_writes_hold_no_memory_and_half_sent_ones_no_more_than_the_bound() {
    let bed = Bed::new(Ram::new(16 << 11, 4096));
    // Everything that is set up once is set up.
    drop(bed.simple());
    bed.await_connections(0);
    let before = resident();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| bed.simple()).collect();
    for client in &mut clients {
        client.request(1, 0, 0, 32 << 20);
    }
    bed.await_connections(CLIENTS);
    std::thread::sleep(std::time::Duration::from_millis(100));
    let announced = resident() - before;
    assert!(announced < CLIENTS * (96 << 10), "{announced} bytes for announcements");

    for client in &mut clients {
        client.send(&vec![1; nvstack_nbd::PIECE - 4096]);
    }
    // All of it arrives, so it is looked for in the right place; and then no more does.
    wait_for("the payloads", || resident() - before > CLIENTS * (nvstack_nbd::PIECE - (32 << 10)));
    std::thread::sleep(std::time::Duration::from_millis(100));
    let held = resident() - before;
    let bound = CLIENTS * (nvstack_nbd::PIECE + (160 << 10));
    assert!(held < bound, "{held} bytes held, bound {bound}");

    drop(clients);
    bed.await_connections(0);
    assert!(bed.ram.state().data.iter().all(|b| *b == 0), "a piece that did not arrive whole is not written");
}
