// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion scripts and man pages, both made from the command line's own description.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
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
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    let mut all = Cli::command();
    all.build();
    for command in std::iter::once(&all).chain(all.get_subcommands()) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        let mut text = Vec::new();
        page(command, &mut text).map_err(failed)?;
        std::fs::write(args.dir.join(format!("{name}.1")), text).map_err(failed)?;
    }
    Ok(())
}

/// One page. The examples are lines of their own, which the generator would fill like prose.
fn page(command: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(command.clone()).source(concat!("nvstack ", env!("CARGO_PKG_VERSION")));
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(out)?;
    }
    if let Some(text) = command.get_after_help() {
        let text = text.to_string();
        let mut paragraphs = text.split("\n\n");
        writeln!(out, ".SH EXAMPLES\n.nf")?;
        for line in paragraphs.next().into_iter().flat_map(str::lines).skip(1) {
            writeln!(out, "{}", verbatim(line))?;
        }
        writeln!(out, ".fi")?;
        for paragraph in paragraphs {
            writeln!(out, ".PP\n{}", verbatim(paragraph))?;
        }
    }
    // The verbs have none of their own.
    if command.get_version().is_some() { man.render_version_section(out) } else { Ok(()) }
}

/// Text that roff takes for nothing but text.
fn verbatim(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}
