//! The `barlow` program: commands, reading pictures, run folders, and what is shown of a run. No mathematics.

/// As `println!`, but a reader that has gone, as after `barlow train | head`, ends no run.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}

mod chart;
mod cli;
mod commands;
mod correlation;
mod data;
mod device;
mod embed;
mod follow;
mod onnx;
mod plan;
mod run_folder;
mod settings;
mod sheet;
mod tensorboard;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

/// Runs the command line; errors go to standard error as messages.
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
        cli::Command::Lab(arguments) => commands::lab(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
