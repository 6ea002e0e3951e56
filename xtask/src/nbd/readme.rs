// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands that README.md shows are run as they stand: each fenced block with the info string `sh run` is one
//! script, in an empty folder, with `nvstack` in the path. A block marked `sh serve` holds one server's command: it must
//! say that it is ready, and end well when it is told to.

use std::path::Path;
use std::time::Duration;

use crate::process::{command, succeed};
use crate::report::{Context, Lane, Result, ensure};
use crate::unit::workspace;

const INFO: &str = "sh run";
const SERVE: &str = "sh serve";
const LIMIT: Duration = Duration::from_secs(120);

/// How a newcomer runs the binary from a clone; here it is built already.
const FROM_SOURCE: &str = "cargo run --release -- ";

/// For a kernel that has an nbd driver: run in the guest.
const GUEST: &str = "sh guest";

/// Ends a server as a service manager would, after it has had time to start.
const UNTIL_TERM: &str = "timeout --preserve-status --signal=TERM 5 nvstack ";

/// A block: the line that it begins on, and its script.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    script: String,
    serve: bool,
    guest: bool,
}

/// Runs every block of README.md as a case.
pub(crate) fn run(lane: &mut Lane, bin: &Path) -> Result<()> {
    let path = workspace().join("README.md");
    let text = std::fs::read_to_string(&path).context(path.display())?;
    let blocks = blocks(&text);
    if blocks.is_empty() {
        return Err(format!("{} has no block marked `{INFO}`", path.display()).into());
    }
    for Block { line, script, serve, .. } in blocks.into_iter().filter(|block| !block.guest) {
        let first = script.lines().next().unwrap_or_default().to_owned();
        lane.case(format!("readme.{line}"), || {
            let folder = tempfile::tempdir().context("a temporary folder")?;
            let old = std::env::var("PATH").unwrap_or_default();
            let script = if serve { script.replacen("nvstack ", UNTIL_TERM, 1) } else { script };
            let mut shell = command("bash", ["-e", "-o", "pipefail", "-c", &script]);
            shell.current_dir(folder.path()).env("PATH", format!("{}:{old}", bin.display()));
            let ran = succeed(&mut shell, LIMIT)?;
            ensure(!serve || ran.stdout.contains("\"uri\""), || {
                format!("no URI was printed{}", ran.words())
            })?;
            Ok(first)
        });
    }
    Ok(())
}

/// The scripts that the guest is to run.
pub(crate) fn guest_blocks() -> Result<Vec<String>> {
    let path = workspace().join("README.md");
    let text = std::fs::read_to_string(&path).context(path.display())?;
    Ok(blocks(&text).into_iter().filter(|block| block.guest).map(|block| block.script).collect())
}

/// Finds the blocks.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    // Inside a fence: its marker, and whether it is ours.
    let mut fence: Option<(String, bool)> = None;
    for (n, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        match &fence {
            Some((marker, _)) if trimmed.trim_end() == marker => fence = None,
            Some((_, true)) => {
                if let Some(block) = blocks.last_mut() {
                    block.script.push_str(&line.replacen(FROM_SOURCE, "nvstack ", 1));
                    block.script.push('\n');
                }
            }
            Some(_) => {}
            None => {
                let ticks = trimmed.len() - trimmed.trim_start_matches('`').len();
                if ticks >= 3 {
                    let info = trimmed.trim_start_matches('`').trim();
                    let ours = [INFO, SERVE, GUEST].contains(&info);
                    fence = Some(("`".repeat(ticks), ours));
                    if ours {
                        blocks.push(Block {
                            line: n + 1,
                            script: String::new(),
                            serve: info == SERVE,
                            guest: info == GUEST,
                        });
                    }
                }
            }
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_blocks_are_found_and_nothing_else() {
        let text = "Text `a`\n```sh run\ncargo run --release -- serve x \\\n  --create 1M\n```\n```sh\nrm -rf /\n```\n\
            ````text\n```sh run\nnot this\n```\n````\n```sh run\ntrue\n```\n";
        let found = blocks(text);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            Block {
                line: 2,
                script: "nvstack serve x \\\n  --create 1M\n".into(),
                serve: false,
                guest: false
            }
        );
        assert_eq!(found[1].script, "true\n");
    }
}
