//! The `barlow` program: commands, reading of pictures, run folders, and the display of runs. No mathematics.

/// Like `println!`, but does not panic when standard output is closed, so that `barlow train | head` does not end the
/// run. Of several ranks, only the first one speaks.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        if !$crate::ranks::is_quiet() {
            _ = writeln!(std::io::stdout(), $($argument)*);
        }
    }};
}

/// Like `eprintln!`, for what the first rank says for all.
macro_rules! warn {
    ($($argument:tt)*) => {{
        if !$crate::ranks::is_quiet() {
            warn_here!($($argument)*);
        }
    }};
}

/// Like `eprintln!`, for what any rank says: lines of processes that share a terminal never mix, and it does not panic when
/// standard error is closed.
macro_rules! warn_here {
    ($($argument:tt)*) => {
        $crate::write_line(&mut std::io::stderr(), format_args!($($argument)*))
    };
}

mod ahead;
mod chart;
mod cli;
mod commands;
mod data;
mod device;
mod embed;
#[cfg(feature = "lab")]
mod follow;
mod hugging_face;
mod init;
mod onnx;
mod plan;
mod ranks;
mod record;
mod run;
mod run_folder;
mod settings;
mod sheet;
mod tensorboard;
mod terminal;
mod tiles;
mod weights;

use std::fmt::Arguments;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser as _;

/// Runs the command given on the command line; prints an error as a message on standard error.
pub fn main() -> ExitCode {
    let result = match cli::Cli::parse().command {
        cli::Command::Train(arguments) => commands::train(&arguments),
        cli::Command::Evaluate(arguments) => commands::evaluate(&arguments),
        cli::Command::Devices => commands::devices(),
        cli::Command::Bench(arguments) => commands::bench(&arguments),
        cli::Command::Data(cli::DataCommand::Inspect(arguments)) => commands::inspect(&arguments),
        cli::Command::Data(cli::DataCommand::Speed(arguments)) => commands::speed(&arguments),
        cli::Command::Import(arguments) => commands::import(&arguments),
        cli::Command::Export(arguments) => commands::export(&arguments),
        cli::Command::Embed(arguments) => commands::embed(&arguments),
        cli::Command::Search(arguments) => commands::search(&arguments),
        cli::Command::Duplicates(arguments) => commands::duplicates(&arguments),
        cli::Command::Map(arguments) => commands::map(&arguments),
        cli::Command::Classify(arguments) => commands::classify(&arguments),
        cli::Command::Lab(arguments) => commands::lab(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            warn_here!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a line by one call. Standard error has no buffer: `writeln!` would make a call of each piece of the format, and an MPI
/// launcher would put another rank's in between.
fn write_line(to: &mut impl Write, line: Arguments<'_>) {
    _ = to.write_all(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what each call wrote.
    struct Calls(Vec<Vec<u8>>);

    impl Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_several_pieces_is_one_call() {
        let mut calls = Calls(Vec::new());
        let (rank, problem) = (1, "no pictures");
        write_line(&mut calls, format_args!("error: rank {rank}: {problem}"));
        assert_eq!(calls.0, [b"error: rank 1: no pictures\n"]);
    }
}
