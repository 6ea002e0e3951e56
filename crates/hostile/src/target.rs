// SPDX-License-Identifier: MIT OR Apache-2.0
//! All targets, by name.

use crate::seeds;

/// A target, and what a mutator should know of it.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, also that of its binary under `fuzz/`.
    pub name: &'static str,
    /// The target itself.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Fields of the input: offset and length. None where inputs are programs.
    pub fields: &'static [(usize, usize)],
    /// Words that mean something.
    pub words: &'static [&'static str],
    /// Longest input.
    pub longest: usize,
    /// Whether it starts threads whose panics are contained there.
    pub threads: bool,
    /// Runs in a normal test run: about three seconds' worth.
    pub rounds: u64,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "info_block",
        run: crate::info_block,
        seeds: seeds::info_block,
        fields: crate::btt::FIELDS_IN_INPUT,
        words: &[],
        longest: crate::btt::INFO_INPUT,
        threads: false,
        rounds: 60_000,
    },
    Target {
        name: "arena_chain",
        run: crate::arena_chain,
        seeds: seeds::arena_chain,
        fields: &[],
        words: &[],
        longest: 400,
        threads: false,
        rounds: 900,
    },
    Target {
        name: "btt_tables",
        run: crate::btt_tables,
        seeds: seeds::btt_tables,
        fields: &[],
        words: &[],
        longest: 400,
        threads: false,
        rounds: 1200,
    },
    Target {
        name: "differential_btt",
        run: crate::differential_btt,
        seeds: seeds::btt_tables,
        fields: &[],
        words: &[],
        longest: 400,
        threads: false,
        rounds: 1500,
    },
    Target {
        name: "label_area",
        run: crate::label_area,
        seeds: seeds::label_area,
        fields: &[],
        words: &[],
        longest: 3000,
        threads: false,
        rounds: 20_000,
    },
    Target {
        name: "label_set",
        run: crate::label_set,
        seeds: seeds::label_area,
        fields: &[],
        words: &[],
        longest: 3000,
        threads: false,
        rounds: 10_000,
    },
    Target {
        name: "differential_labels",
        run: crate::differential_labels,
        seeds: seeds::label_area,
        fields: &[],
        words: &[],
        longest: 3000,
        threads: false,
        rounds: 20_000,
    },
    Target {
        name: "pfn_info",
        run: crate::pfn_info,
        seeds: seeds::pfn_info,
        fields: &[],
        words: &[],
        longest: 300,
        threads: false,
        rounds: 40_000,
    },
    Target {
        name: "whole_image",
        run: crate::whole_image,
        seeds: seeds::whole_image,
        fields: &[],
        words: &[],
        longest: 400,
        threads: true,
        rounds: 400,
    },
    Target {
        name: "partition_table",
        run: crate::partition_table,
        seeds: seeds::partition_table,
        fields: &[],
        words: &["EFI PART"],
        longest: 600,
        threads: false,
        rounds: 10_000,
    },
    Target {
        name: "lab_text",
        run: crate::lab_text,
        seeds: seeds::lab_text,
        fields: &[],
        words: crate::lab::WORDS,
        longest: 4096,
        threads: false,
        rounds: 8000,
    },
    Target {
        name: "nbd_handshake",
        run: crate::nbd_handshake,
        seeds: seeds::nbd_handshake,
        fields: &[],
        words: crate::nbd::WORDS,
        longest: 4096,
        threads: false,
        rounds: 8000,
    },
    Target {
        name: "nbd_transmission",
        run: crate::nbd_transmission,
        seeds: seeds::nbd_transmission,
        fields: &[],
        words: &[],
        longest: 600,
        threads: false,
        rounds: 6000,
    },
    Target {
        name: "control_lines",
        run: crate::control_lines,
        seeds: seeds::control_lines,
        fields: &[],
        words: crate::cli::WORDS,
        longest: 4096,
        threads: true,
        rounds: 400,
    },
    Target {
        name: "state_file",
        run: crate::state_file,
        seeds: seeds::state_file,
        fields: &[],
        words: &[
            "version",
            "disabled",
            "read_only_regions",
            "poison",
            "dimms",
            "regions",
            "namespaces",
            "ranges",
        ],
        longest: 2048,
        threads: true,
        rounds: 4000,
    },
];

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
