// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a command ends: words on stderr, and the exit status that `ndctl` would give.

use std::fmt;
use std::process::ExitCode;

use clap::error::ErrorKind;
use nvstack_media::Error;

/// The command line makes no sense.
const USAGE: u8 = 129;
/// No command, or one that does not exist.
const NO_COMMAND: u8 = 1;

/// Says something on stderr that does not end the command.
pub(crate) fn warn(command: &str, message: impl fmt::Display) {
    say(format_args!("nvstack {command}: warning: {message}"));
}

/// Says something on stderr.
pub(crate) fn note(command: &str, message: impl fmt::Display) {
    say(format_args!("nvstack {command}: {message}"));
}

/// The end of a command that failed: one line, and the low byte of the negative errno.
pub(crate) fn failure(command: &str, error: &Error) -> ExitCode {
    note(command, error);
    ExitCode::from(status(error))
}

/// The exit status of an error: EBUSY is 240, EINVAL 234 ...
pub(crate) fn status(error: &Error) -> u8 {
    u8::try_from(error.kind().errno()).unwrap_or(u8::MAX).wrapping_neg()
}

/// The end of a command line that was not understood, or that asked for help.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe takes the words with it; the status is still right.
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = crate::json::write_stdout(error.to_string().as_bytes());
            ExitCode::from(NO_COMMAND)
        }
        ErrorKind::InvalidSubcommand => {
            let _ = error.print();
            ExitCode::from(NO_COMMAND)
        }
        _ => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
    }
}

/// One line on stderr; where stderr is gone there is nobody to tell.
fn say(line: fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvstack_media::Kind;

    #[test]
    fn exit_status_is_the_low_byte_of_the_negative_errno() {
        for (kind, want) in [
            (Kind::Io, 251),
            (Kind::Corrupt, 250),
            (Kind::Busy, 240),
            (Kind::Invalid, 234),
            (Kind::NotFound, 254),
            (Kind::NoSpace, 228),
            (Kind::Unsupported, 161),
        ] {
            assert_eq!(status(&Error::new(kind, "x")), want, "{kind:?}");
        }
    }
}
