//! A run's folder: settings, metrics, pictures of C, curves and checkpoints. Whole files appear under their names at
//! once, so that a kill at any moment leaves the last good ones.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use barlow_core::train::Checkpoint;
use fd_lock::RwLock;
use tempfile::NamedTempFile;

/// How many checkpoints are kept: the last, and one to fall back on.
const KEPT_CHECKPOINTS: usize = 2;
const CHECKPOINTS: &str = "checkpoints";
const METRICS: &str = "metrics.jsonl";

/// An open run's folder.
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes a new folder: `path`, or the first free `runs/NAME-NUMBER`.
    ///
    /// # Errors
    /// If there is a run in it already, or it cannot be made.
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
                "there is a run in {0} already: go on with it by `barlow train --resume {0}`, or name another folder",
                path.display()
            );
        }
        fs::create_dir_all(path.join(CHECKPOINTS))
            .and_then(|()| fs::create_dir_all(path.join("correlation")))
            .with_context(|| format!("cannot make the run's folder {}", path.display()))?;
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A lock that keeps a second process from training the same run; taken by `try_write`.
    ///
    /// # Errors
    /// If its file cannot be made.
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

    /// Writes a whole file under its name at once.
    ///
    /// # Errors
    /// If it cannot be written; what had the name before is then untouched.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let folder = path.parent().unwrap_or(&self.path);
        let write = || -> std::io::Result<()> {
            let mut file = new_file(folder)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| {
            format!(
                "cannot write {} ({} KB): is the disk full? What was saved before is whole",
                path.display(),
                bytes.len() >> 10
            )
        })
    }

    /// Keeps a checkpoint, and of the older ones as many as are of use.
    ///
    /// # Errors
    /// If it cannot be written; the older ones are then untouched.
    pub fn write_checkpoint(&self, step: usize, bytes: &[u8]) -> Result<()> {
        self.write(&format!("{CHECKPOINTS}/step-{step:08}.safetensors"), bytes)?;
        let checkpoints = self.checkpoints()?;
        for (_, old) in checkpoints.iter().rev().skip(KEPT_CHECKPOINTS) {
            // One too many does no harm.
            _ = fs::remove_file(old);
        }
        Ok(())
    }

    /// The checkpoints with their steps, the last one last.
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

    /// The step of the last checkpoint, if there is one.
    pub fn last_step(&self) -> Option<usize> {
        self.checkpoints().ok()?.last().map(|(step, _)| *step)
    }

    /// Reads the last checkpoint.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn last_checkpoint(&self) -> Result<Checkpoint> {
        let checkpoints = self.checkpoints()?;
        let Some((_, path)) = checkpoints.last() else {
            bail!(
                "the run in {} has no checkpoint yet: start it anew in another folder with --config {}",
                self.path.display(),
                self.path.join("config.toml").display()
            );
        };
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Checkpoint::read(&bytes).with_context(|| {
            let advice = match checkpoints.len() {
                1 => "it is the only one, so the run has to start anew".to_owned(),
                n => format!("delete it to go on from {}", checkpoints[n - 2].1.display()),
            };
            format!("the checkpoint {} cannot be used; {advice}", path.display())
        })
    }

    /// Opens the metrics to add to them, without those of steps after `done`, which are going to be done again.
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
                    .and_then(|value| value["step"].as_u64());
                if step.is_some_and(|step| step <= done as u64) {
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

    /// The metrics' lines so far.
    pub fn read_metrics(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path.join(METRICS)).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// A file without a name that others may know, readable as any file is.
fn new_file(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(".writing-").tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_checkpoints_and_drops_metrics_to_be_done_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Some(&place.path().join("run")), "x").unwrap();
        for step in [5, 10, 15] {
            folder.write_checkpoint(step, b"not really one").unwrap();
        }
        let steps: Vec<_> = folder
            .checkpoints()
            .unwrap()
            .into_iter()
            .map(|c| c.0)
            .collect();
        assert_eq!(steps, [10, 15]);
        let message = format!("{:#}", folder.last_checkpoint().err().unwrap());
        assert!(
            message.contains("step-00000010") && message.contains("damaged"),
            "{message}"
        );

        let mut metrics = folder.metrics(0).unwrap();
        for step in 1..=4 {
            writeln!(metrics, r#"{{"step":{step}}}"#).unwrap();
        }
        // A kill in the middle of a line.
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
}
