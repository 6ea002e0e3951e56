// SPDX-License-Identifier: MIT OR Apache-2.0
//! `nvstack`: the Linux NVDIMM stack as an ordinary program.
//!
//! Verbs, options, JSON and exit status are ndctl's where ndctl has the verb. stdout carries data, stderr people's
//! words. What ndctl's verbs do stands in `nvstack-ndctl`; here are their options (`args`), the machine that a TARGET is
//! (`machine`), what is kept of it from one command to the next (`state`), and the ending (`end`).
#![forbid(unsafe_code)]

mod args;
mod control;
mod crash_test;
mod create;
mod docs;
mod end;
mod json;
mod lab;
mod machine;
mod output;
mod serve;
mod size;
mod state;
mod sys;
mod target;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return end::usage(&e),
    };
    if let Err(e) = cli.command.check() {
        return end::usage(&e);
    }
    let name = cli.command.name();
    let done = match cli.command {
        Command::Create(args) => create::run(&args).map(|()| 0),
        Command::List(args) => verbs::list(&args),
        Command::CreateNamespace(args) => verbs::create_namespace(&args),
        Command::DestroyNamespace(args) => verbs::destroy_namespace(&args),
        Command::EnableNamespace(args) => {
            verbs::namespaces(name, &args.namespaces, nvstack_ndctl::enable_namespaces)
        }
        Command::DisableNamespace(args) => {
            verbs::namespaces(name, &args.namespaces, nvstack_ndctl::disable_namespaces)
        }
        Command::EnableRegion(args) => verbs::objects(name, &args.selected, nvstack_ndctl::enable_regions),
        Command::DisableRegion(args) => verbs::objects(name, &args.selected, nvstack_ndctl::disable_regions),
        Command::EnableDimm(args) => verbs::objects(name, &args.selected, nvstack_ndctl::enable_dimms),
        Command::DisableDimm(args) => verbs::objects(name, &args.selected, nvstack_ndctl::disable_dimms),
        Command::InitLabels(args) => verbs::init_labels(&args),
        Command::ReadLabels(args) => verbs::read_labels(&args),
        Command::CheckLabels(args) => verbs::check_labels(&args.selected),
        Command::ZeroLabels(args) => verbs::zero_labels(&args),
        Command::WriteLabels(args) => verbs::write_labels(&args),
        Command::ReadInfoblock(args) => verbs::read_infoblock(&args),
        Command::WriteInfoblock(args) => verbs::write_infoblock(&args),
        Command::InjectError(args) => verbs::inject_error(&args),
        Command::ClearErrors(args) => verbs::clear_errors(&args),
        Command::Lab(args) => lab::run(&args).map(|()| 0),
        Command::Serve(args) => serve::run(&args),
        Command::CrashTest(args) => crash_test::run(&args),
        Command::Completions(args) => docs::completions(&args).map(|()| 0),
        Command::Man(args) => docs::man(&args).map(|()| 0),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(e) => end::failure(name, &e),
    }
}
