//! What to do on the command line about a run that cannot continue, or that was stopped.

use std::path::Path;

use anyhow::anyhow;
use barlow_core::train::TrainError;

use crate::cli::Devices;
use crate::run_folder::RunFolder;

/// The error of a run with what can be done about it on the command line.
pub fn advised(error: anyhow::Error) -> anyhow::Error {
    let advice = match error.downcast_ref::<TrainError>() {
        Some(TrainError::Device { .. }) => {
            "go on with --device cpu, or with a smaller --batch if memory ran out".into()
        }
        Some(TrainError::Diverged { rates, .. }) => format!(
            "take lower learning rates: --set schedule.rate_weights={} --set schedule.rate_biases={}",
            rates.weights / 2.0,
            rates.biases / 2.0
        ),
        Some(TrainError::Config(config)) if config.setting == "precision" => {
            "`barlow devices` lists the adapters that do".into()
        }
        _ => return error,
    };
    anyhow!("{error:#}; {advice}")
}

/// The command that resumes the run in `folder` on the same device.
pub fn resume_command(folder: &RunFolder, device: &Devices) -> String {
    let path = quoted(folder.path());
    format!("{} train --resume {path} --device {device}", program())
}

/// The error with the command that continues from what is saved.
pub fn with_way_on(error: anyhow::Error, folder: &RunFolder, device: &Devices) -> anyhow::Error {
    match folder.last_checkpoint() {
        Ok(last) => anyhow!(
            "{error:#}\nthe checkpoint of step {} is intact; to resume from it: {}",
            last.step().unwrap_or(0),
            resume_command(folder, device)
        ),
        Err(_) => anyhow!(
            "{error:#}\nthere is no checkpoint yet; to start anew: {} train --config {}",
            program(),
            quoted(&folder.path().join("config.toml"))
        ),
    }
}

/// The program's name as it was typed, so that printed commands can be copied.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "barlow".into())
}

/// A path as it is typed in a shell.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    if cfg!(windows) {
        // cmd and PowerShell take double quotes, which no path there contains.
        return match path.contains([' ', '&', '(', ')', '\'']) {
            true => format!("\"{path}\""),
            false => path,
        };
    }
    let quoted = shlex::try_quote(&path).map(std::borrow::Cow::into_owned);
    // It fails for a NUL byte only, which no path has.
    quoted.unwrap_or(path)
}
