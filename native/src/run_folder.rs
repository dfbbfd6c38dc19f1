//! A run's folder: settings, metrics, pictures of C, curves and checkpoints. Files are written under a temporary name
//! and then renamed, so that a kill at any moment leaves the last complete ones.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use barlow_core::session::Message;
use barlow_core::train::Checkpoint;
use fd_lock::RwLock;
use tempfile::NamedTempFile;

/// The checkpoint with the best evaluation.
const BEST: &str = "checkpoints/best.safetensors";
/// The weights with which a run began, if not with random ones.
const INITIAL: &str = "initial.safetensors";
const CHECKPOINTS: &str = "checkpoints";
/// Prefix of the names of files that are still being written.
const UNFINISHED: &str = ".writing-";
const METRICS: &str = "metrics.jsonl";

/// The folder of a run.
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Creates a new folder: `path`, or the first free `runs/NAME-NUMBER`.
    ///
    /// # Errors
    /// If there is a run in it already, or it cannot be created.
    pub fn create(path: Option<&Path>, name: &str) -> Result<Self> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => (1..)
                .map(|number| Path::new("runs").join(format!("{name}-{number}")))
                .find(|path| !path.exists())
                .context("runs/ is full")?,
        };
        if path.join("config.toml").exists() {
            bail!(
                "there is a run in {0} already: resume it with `barlow train --resume {0}`, or choose another folder",
                path.display()
            );
        }
        fs::create_dir_all(path.join(CHECKPOINTS))
            .and_then(|()| fs::create_dir_all(path.join("correlation")))
            .with_context(|| format!("cannot create the run's folder {}", path.display()))?;
        Ok(Self { path })
    }

    /// Opens the folder of a run.
    ///
    /// # Errors
    /// If there is no run in it.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.join("config.toml").is_file() {
            bail!(
                "there is no run in {}: a run's folder holds a config.toml",
                path.display()
            );
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Opens the run in `path`, or without a path the last run of that name in `runs/`, if there is one.
    pub fn find(path: Option<&Path>, name: &str) -> Option<Self> {
        if let Some(path) = path {
            return Self::open(path).ok();
        }
        let numbers = fs::read_dir("runs").ok()?.filter_map(|entry| {
            let entry = entry.ok()?.file_name();
            let number = entry.to_str()?.strip_prefix(name)?.strip_prefix('-')?;
            number.parse::<usize>().ok()
        });
        let mut numbers: Vec<usize> = numbers.collect();
        numbers.sort_unstable();
        let paths = numbers
            .iter()
            .rev()
            .map(|number| format!("runs/{name}-{number}"));
        paths
            .filter_map(|path| Self::open(Path::new(&path)).ok())
            .next()
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A lock that keeps a second process from training the same run; acquire it with `try_write`.
    ///
    /// # Errors
    /// If its file cannot be created.
    pub fn lock(&self) -> Result<RwLock<File>> {
        let path = self.path.join("run.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(RwLock::new(file))
    }

    /// Writes a file atomically.
    ///
    /// # Errors
    /// If it cannot be written; an older file of that name is then unchanged.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        write_file(&path, bytes).with_context(|| {
            format!(
                "cannot write {} ({} KB): is the disk full? What was saved before is intact",
                path.display(),
                bytes.len() >> 10
            )
        })
    }

    /// Writes a checkpoint, and removes the oldest ones so that `last` checkpoints remain.
    ///
    /// # Errors
    /// If it cannot be written; the older ones are then kept.
    pub fn write_checkpoint(&self, step: usize, bytes: &[u8], last: usize) -> Result<()> {
        self.write(&checkpoint_name(step), bytes)?;
        // Checkpoints of later steps, left by a run that fell back to an earlier one, are not counted.
        let mut earlier = self.checkpoints()?;
        earlier.retain(|(of, _)| *of <= step);
        for (_, old) in earlier.iter().rev().skip(last.max(1)) {
            // If this fails, one checkpoint too many does no harm.
            _ = fs::remove_file(old);
        }
        Ok(())
    }

    /// Writes a checkpoint and removes all others, for a run whose steps are renumbered.
    ///
    /// # Errors
    /// If it cannot be written; the others are then kept.
    pub fn write_only_checkpoint(&self, step: usize, bytes: &[u8]) -> Result<()> {
        self.write(&checkpoint_name(step), bytes)?;
        for (other, path) in self.checkpoints()? {
            if other != step {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Renumbers the steps of the metrics from their epochs, for a run that is resumed with another batch size.
    ///
    /// # Errors
    /// If the metrics cannot be written.
    pub fn renumber_metric_steps(&self, steps_per_epoch: usize) -> Result<()> {
        let mut text = String::new();
        for mut line in self.read_metrics() {
            // How the run was counted before.
            if line["event"] == "opened" {
                continue;
            }
            let epochs = line["epochs"].as_f64().or(line["epoch"].as_f64());
            if let Some(epochs) = epochs.filter(|_| line["step"].is_u64()) {
                // Rounded up, so that the lines of steps that are repeated count as later than the steps that are done.
                let step = (epochs * steps_per_epoch as f64 - 1e-6).ceil().max(0.0);
                line["step"] = (step as u64).into();
            }
            text += &format!("{line}\n");
        }
        self.write(METRICS, text.as_bytes())
    }

    /// Keeps the checkpoint of that step, if there is one, as the best one.
    ///
    /// # Errors
    /// If it cannot be written; the previous best one is then kept.
    pub fn keep_as_best(&self, step: usize) -> Result<()> {
        let path = self.path.join(checkpoint_name(step));
        if !path.exists() {
            return Ok(());
        }
        // A hard link where the file system supports it: the file is never written to again.
        let new = self.path.join(format!("{CHECKPOINTS}/.best"));
        _ = fs::remove_file(&new);
        let kept = fs::hard_link(&path, &new).and_then(|()| fs::rename(&new, self.path.join(BEST)));
        if kept.is_err() {
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            self.write(BEST, &bytes)?;
        }
        Ok(())
    }

    /// Keeps the checkpoint without progress with which the run begins.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_initial(&self, bytes: &[u8]) -> Result<()> {
        self.write(INITIAL, bytes)
    }

    /// Reads the checkpoint with which the run began, if not with random weights.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn initial(&self) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(INITIAL);
        match path.exists() {
            true => fs::read(&path)
                .map(Some)
                .with_context(|| format!("cannot read {}", path.display())),
            false => Ok(None),
        }
    }

    /// Reads the last checkpoint, or the best one.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn checkpoint(&self, best: bool) -> Result<Checkpoint> {
        if best {
            self.best_checkpoint()
        } else {
            self.last_checkpoint()
        }
    }

    /// Reads the checkpoint with the best evaluation.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    fn best_checkpoint(&self) -> Result<Checkpoint> {
        let path = self.path.join(BEST);
        let bytes = fs::read(&path).with_context(|| {
            format!(
                "cannot read {}: it is written once a run has been evaluated, unless keep.best is false",
                path.display()
            )
        })?;
        Checkpoint::read(&bytes)
            .with_context(|| format!("the checkpoint {} cannot be used", path.display()))
    }

    /// The checkpoints and their steps, in ascending order of steps.
    fn checkpoints(&self) -> Result<Vec<(usize, PathBuf)>> {
        let folder = self.path.join(CHECKPOINTS);
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let step = |path: &Path| {
            path.file_name()?
                .to_str()?
                .strip_prefix("step-")?
                .strip_suffix(".safetensors")?
                .parse()
                .ok()
        };
        let mut found: Vec<(usize, PathBuf)> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter_map(|path| Some((step(&path)?, path)))
            .collect();
        found.sort();
        Ok(found)
    }

    /// Whether the metrics hold an evaluation of that step.
    pub fn was_evaluated_at(&self, step: usize) -> bool {
        let lines = self.read_metrics();
        lines
            .iter()
            .any(|line| line["event"] == "evaluation" && line["step"] == step)
    }

    /// Whether there is a checkpoint.
    pub fn has_checkpoint(&self) -> bool {
        self.last_step().is_some()
    }

    /// The step of the last checkpoint, if there is one.
    pub fn last_step(&self) -> Option<usize> {
        self.checkpoints().ok()?.last().map(|(step, _)| *step)
    }

    /// Reads the last checkpoint; if it is damaged, warns and reads the one before.
    ///
    /// # Errors
    /// If no checkpoint can be read.
    pub fn last_checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::read(&self.last_checkpoint_bytes()?)?)
    }

    /// The content of that checkpoint's file, which can be read.
    ///
    /// # Errors
    /// As [`Self::last_checkpoint`].
    pub fn last_checkpoint_bytes(&self) -> Result<Vec<u8>> {
        let mut checkpoints = self.checkpoints()?;
        if checkpoints.is_empty() {
            bail!(
                "the run in {} has no checkpoint yet: start anew in another folder, with --config {}",
                self.path.display(),
                self.path.join("config.toml").display()
            );
        }
        let best = self.path.join(BEST);
        if best.exists() {
            checkpoints.insert(0, (0, best));
        }
        let mut problems = Vec::new();
        while let Some((_, path)) = checkpoints.pop() {
            let read = fs::read(&path)
                .map_err(anyhow::Error::from)
                .and_then(|bytes| Checkpoint::read(&bytes).map(|_| bytes).map_err(Into::into));
            match read {
                Ok(bytes) => {
                    for problem in problems {
                        warn_here!("warning: {problem}; going on from {}", path.display());
                    }
                    return Ok(bytes);
                }
                Err(error) => problems.push(format!(
                    "the checkpoint {} cannot be used: {error:#}",
                    path.display()
                )),
            }
        }
        bail!(
            "{}. There is no other checkpoint: start anew in another folder, with --config {}",
            problems.join("; "),
            self.path.join("config.toml").display()
        )
    }

    /// Opens the metrics for appending, after removing those of steps later than `done`, which will be repeated.
    ///
    /// # Errors
    /// If they cannot be read or written.
    pub fn metrics(&self, done: usize) -> Result<File> {
        let path = self.path.join(METRICS);
        if path.exists() {
            let mut kept = String::new();
            let file =
                File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            for line in BufReader::new(file).lines() {
                let Ok(line) = line else { break };
                let step = serde_json::from_str::<serde_json::Value>(&line)
                    .ok()
                    .and_then(|value| value["step"].as_u64().or(value["done"].as_u64()));
                // A run that starts from step 0 writes all its metrics again.
                if done > 0 && step.is_some_and(|step| step <= done as u64) {
                    kept += &line;
                    kept.push('\n');
                }
            }
            self.write(METRICS, kept.as_bytes())?;
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes unfinished files that a killed process has left. The caller must hold the lock.
    pub fn clean(&self) {
        for folder in [
            self.path.clone(),
            self.path.join(CHECKPOINTS),
            self.path.join("correlation"),
        ] {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            for entry in entries {
                if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                    // If this fails, the file only takes space.
                    _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// What the metrics' lines tell. Lines of other programs, and one that a kill cut short, are left out.
    pub fn messages(&self) -> Vec<Message> {
        let mut before: Option<(usize, f64)> = None;
        let lines = self.read_metrics().into_iter();
        let messages = lines.filter_map(|line| {
            let seconds = line["seconds"].as_f64();
            let mut message = serde_json::from_value(line).ok()?;
            if let Message::Step {
                report,
                milliseconds,
            } = &mut message
                && let Some(seconds) = seconds
            {
                // Older runs recorded when a step ended, but not how long it took.
                if let Some((step, at)) = before
                    && *milliseconds == 0.0
                    && seconds > at
                    && report.step > step
                {
                    *milliseconds = 1e3 * (seconds - at) / (report.step - step) as f64;
                }
                before = Some((report.step, seconds));
            }
            Some(message)
        });
        messages.collect()
    }

    /// Reads the lines of the metrics so far; skips damaged ones.
    pub fn read_metrics(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path.join(METRICS)).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// Writes a file atomically; if that fails, an older file of that name is unchanged.
///
/// # Errors
/// If it cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file = new_file(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // Sync the folder too, so that the new name survives a power failure.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn checkpoint_name(step: usize) -> String {
    format!("{CHECKPOINTS}/step-{step:08}.safetensors")
}

/// Creates a temporary file in `folder`, with the permissions of an ordinary file.
fn new_file(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(UNFINISHED).tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_checkpoints_and_drops_metrics_to_be_done_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Some(&place.path().join("run")), "x").unwrap();
        for step in [5, 10, 15] {
            folder.write_checkpoint(step, b"not really one", 2).unwrap();
        }
        let steps = |folder: &RunFolder| -> Vec<usize> {
            let checkpoints = folder.checkpoints().unwrap();
            checkpoints.into_iter().map(|c| c.0).collect()
        };
        assert_eq!(steps(&folder), [10, 15]);
        let message = format!("{:#}", folder.last_checkpoint().err().unwrap());
        for part in ["step-00000015", "step-00000010", "damaged"] {
            assert!(message.contains(part), "{message}");
        }
        // The best checkpoint is kept after the file of its own step is removed.
        folder.keep_as_best(15).unwrap();
        folder.keep_as_best(5).unwrap();
        for step in [20, 25] {
            folder.write_checkpoint(step, b"another", 2).unwrap();
        }
        assert_eq!(steps(&folder), [20, 25]);
        assert_eq!(
            fs::read(folder.path().join(BEST)).unwrap(),
            b"not really one"
        );

        let mut metrics = folder.metrics(0).unwrap();
        for step in 1..=4 {
            writeln!(metrics, r#"{{"step":{step}}}"#).unwrap();
        }
        // A line that a kill has cut off.
        write!(metrics, r#"{{"st"#).unwrap();
        drop(folder.metrics(3).unwrap());
        assert_eq!(folder.read_metrics().len(), 3);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Some(&place.path().join("run")), "x").unwrap();
        folder.write("file", b"good").unwrap();
        assert!(folder.write("missing/file", b"bad").is_err());
        assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"good");
    }

    #[test]
    fn steps_of_older_runs_have_durations() {
        let older = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/older");
        let messages = RunFolder::open(&older).unwrap().messages();
        let durations = messages.iter().filter_map(|message| match message {
            Message::Step { milliseconds, .. } => Some(*milliseconds),
            _ => None,
        });
        let durations: Vec<f64> = durations.collect();
        assert_eq!(durations[0], 0.0);
        assert!(
            durations.len() > 10 && durations[1..].iter().all(|ms| *ms > 0.0),
            "{durations:?}"
        );
    }
}
