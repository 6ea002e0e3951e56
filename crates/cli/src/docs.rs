// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion scripts and man pages, both made from the command line's own description.

use std::fs;

use clap::CommandFactory;
use nvstack_media::{Error, Result};

use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::json::write_stdout;

/// `nvstack completions SHELL`.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nvstack", &mut script);
    write_stdout(&script)
}

/// `nvstack man DIR`.
pub(crate) fn man(args: &ManArgs) -> Result<()> {
    let failed = |e| Error::os("write man pages", e).path(&args.dir);
    fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)
}
