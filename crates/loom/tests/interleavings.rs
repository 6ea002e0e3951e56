// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving of small cases; and that each thing that the engines rely on is missed where it is left out.

use nvstack_loom::models::{
    Preemptions, check, drain, engine, export, gate, group, lanes, notices, tracking,
};
use nvstack_loom::sync::Break;

/// All there are.
const ALL: Option<usize> = None;

/// At most so many.
const fn up_to(preemptions: usize) -> Option<usize> {
    Some(preemptions)
}

macro_rules! cases {
    ($($name:ident: $module:ident::$case:ident, $short:expr, $long:expr, misses [$($what:ident),*];)*) => {$(
        #[test]
        fn $name() {
            let name = concat!(stringify!($module), ": ", stringify!($case)).replace('_', " ");
            check(&name, Preemptions($short, $long), $module::$case);
            $(notices(&name, Break::$what, $module::$case);)*
        }
    )*};
}

cases! {
    lanes_serve_all: lanes::three_threads_two_lanes, ALL, ALL, misses [TryLock];
    lanes_pass_over_a_bad_one: lanes::a_bad_lane, ALL, ALL, misses [TryLock];

    tracking_guards_a_block: tracking::a_block_that_leaves, ALL, ALL, misses [Fence, Look, Unseen, Acquire, Release];
    tracking_guards_a_block_that_returns: tracking::a_block_that_returns, up_to(4), ALL, misses [Fence, Look, Unseen, Acquire, Release];
    tracking_guards_each_read: tracking::two_reads, up_to(3), up_to(6), misses [Fence, Look, Unseen, Acquire, Release];

    engine_reads_while_written: engine::reader_and_writer, ALL, ALL, misses [Look, Unseen];
    engine_does_not_go_back: engine::two_reads, ALL, ALL, misses [Look, Unseen];
    engine_writes_one_sector_twice: engine::two_writers_one_sector, ALL, ALL, misses [TryLock, Claim];
    engine_writes_two_sectors: engine::two_writers_two_sectors, ALL, ALL, misses [TryLock];
    engine_waits_for_its_lane: engine::two_writers_one_lane, ALL, ALL, misses [TryLock];
    engine_zeroes_while_written: engine::writer_zeroer_reader, ALL, ALL, misses [Claim];
    engine_reads_while_two_write: engine::two_writers_and_a_reader, up_to(3), up_to(5), misses [Claim, Look, Unseen];
    engine_writes_three_sectors: engine::three_writers_two_lanes, ALL, ALL, misses [TryLock];

    group_flushes_each: group::two_flushes, ALL, ALL, misses [Turn];
    group_flushes_one_sector: group::two_flushes_one_sector, ALL, ALL, misses [Turn];
    group_rewrites: group::rewritten_while_flushed, ALL, ALL, misses [Claim];
    group_runs_out_of_blocks: group::one_free_block, ALL, ALL, misses [];
    group_zeroes: group::zeroed_while_written, ALL, ALL, misses [Claim];
    group_keeps_what_was_read: group::two_writers_and_a_flush, up_to(3), up_to(5), misses [Claim];
    group_lets_its_thread_go: group::ended_ticker, ALL, ALL, misses [Notify];
    group_lets_its_thread_go_while_it_commits: group::ended_ticker_while_flushed, ALL, ALL, misses [Notify];
    group_commits_by_itself: group::patient_ticker, up_to(5), up_to(9), misses [Notify];

    gate_waits_for_users: gate::two_users_and_removal, up_to(4), up_to(7), misses [Share];
    gate_closes_twice: gate::two_removals, up_to(4), up_to(7), misses [Share];
    gate_is_not_closed_from_within: gate::removal_from_within, ALL, ALL, misses [Share];

    drain_of_two_pages: drain::two_pages, ALL, ALL, misses [Turn];
    drain_of_one_page: drain::one_page, ALL, ALL, misses [Turn];
    drain_of_a_dirty_page: drain::dirty_already, ALL, ALL, misses [Fence, Turn];
    drain_that_fails: drain::failing, ALL, ALL, misses [Turn];

    export_tells_its_clients: export::client_and_removal, ALL, ALL, misses [Unset];
    export_lives_once: export::removals_and_addition, ALL, ALL, misses [Claim];
}
