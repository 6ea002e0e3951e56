// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack`: the Linux NVDIMM stack as an ordinary program.
//!
//! Verbs, options, JSON and exit status are ndctl's where ndctl has the verb. stdout carries data, stderr people's
//! words. Commands live in a module each; what they share is the image (`image`), the JSON (`json`) and the ending
//! (`end`).
#![forbid(unsafe_code)]

mod args;
mod create;
mod docs;
mod end;
mod image;
mod infoblock;
mod json;
mod labels;
mod list;
mod output;
mod serve;
mod size;
mod target;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return end::usage(&e),
    };
    let name = cli.command.name();
    let done = match cli.command {
        Command::Create(args) => create::run(&args).map(|()| 0),
        Command::List(args) => list::run(&args).map(|()| 0),
        Command::ReadInfoblock(args) => infoblock::run(&args).map(|()| 0),
        Command::ReadLabels(args) => labels::run(&args).map(|()| 0),
        Command::Serve(args) => serve::run(&args),
        Command::Completions(args) => docs::completions(&args).map(|()| 0),
        Command::Man(args) => docs::man(&args).map(|()| 0),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(e) => end::failure(name, &e),
    }
}
