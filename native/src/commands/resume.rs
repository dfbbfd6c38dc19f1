//! Which run `barlow train` resumes, with what settings.

use std::fs::File;
use std::path::Path;

use anyhow::{Result, anyhow, bail};

use crate::cli::Train;
use crate::run_folder::RunFolder;
use crate::settings::Settings;

/// The value of `--resume` that resumes the run if it exists, and starts it if not.
pub const AUTO: &str = "auto";

/// The existing run to resume, if `--resume` is given and there is one.
pub fn existing(arguments: &Train, wanted: Option<&Settings>) -> Result<Option<RunFolder>> {
    match (&arguments.resume, wanted) {
        (None, _) => Ok(None),
        (Some(_), Some(wanted)) => {
            let name = name_of(wanted.data.folder.as_deref());
            Ok(RunFolder::find(arguments.out.as_deref(), &name))
        }
        (Some(run), None) => {
            let is_new = arguments.preset.is_some() || arguments.config.is_some();
            if is_new || arguments.out.is_some() || arguments.init.is_some() {
                bail!(
                    "a resumed run keeps its settings, its weights and its folder: leave out --preset, --config, --init and --out (single \
                     settings may change, with --set NAME=VALUE)"
                );
            }
            RunFolder::open(run).map(Some)
        }
    }
}

/// The settings of the run in `folder`, changed by the command line. `wanted` are the settings of a new run with the
/// same command line.
pub fn resumed_settings(
    folder: &RunFolder,
    arguments: &Train,
    wanted: Option<&Settings>,
) -> Result<Settings> {
    let mut settings = Settings::read(&folder.path().join("config.toml"))?;
    settings.apply(arguments)?;
    let chosen = arguments.preset.is_some() || arguments.config.is_some();
    let differs = |wanted: &Settings| {
        let training = wanted.training.clone();
        wanted.fit.as_in(training, &settings.training) != settings.training
    };
    if chosen && wanted.is_some_and(differs) {
        bail!(
            "the run in {} was started with other settings than those of --preset or --config: leave these out to resume it, or \
             choose another folder with --out",
            folder.path().display()
        );
    }
    Ok(settings)
}

/// The name of a run on `path`.
pub fn name_of(path: Option<&Path>) -> String {
    let name = path.and_then(Path::file_name);
    name.map_or("emoji".into(), |name| name.to_string_lossy().into_owned())
}

/// Acquires a run's lock.
pub fn held<'l>(
    lock: &'l mut fd_lock::RwLock<File>,
    folder: &RunFolder,
) -> Result<fd_lock::RwLockWriteGuard<'l, File>> {
    lock.try_write()
        .map_err(|_| anyhow!("another process is training {}", folder.path().display()))
}
