//! A reader of a run's events: keeps the run's folder, and shows the run on a terminal or line by line.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Cursor, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use barlow_core::train::{Event, StepReport};
use image::ImageFormat;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::chart;
use crate::correlation;
use crate::data::Waited;
use crate::run_folder::RunFolder;
use crate::settings::{Keep, Settings};
use crate::tensorboard::EventFile;

/// Steps between lines of `metrics.jsonl`.
const METRICS_EVERY: usize = 10;
/// Lines that a run prints, about, where there is no terminal.
const PLAIN_LINES: usize = 30;
/// Columns of C on a terminal.
const TERMINAL_CELLS: usize = 32;
/// How many steps the speed is measured over.
const SPEED_STEPS: usize = 50;

/// What has been seen of a run.
pub struct Watch<'a> {
    folder: &'a RunFolder,
    metrics: File,
    events: EventFile,
    lambda: f64,
    batch: usize,
    keep: Keep,
    /// The best evaluation so far, by its first figure.
    best: Option<f64>,
    /// How long was waited for pictures, if they are streamed.
    waited: Option<Arc<Waited>>,
    steps_per_epoch: usize,
    steps: usize,
    epochs: usize,
    started: Instant,
    /// When the last steps ended.
    times: VecDeque<Instant>,
    /// The terminal's display, if there is one.
    bar: Option<ProgressBar>,
    matrix: String,
    last_evaluation: String,
    printed: usize,
    /// Steps of this process.
    steps_seen: usize,
}

impl<'a> Watch<'a> {
    /// A reader that adds to `metrics`, of a run that goes on after the step `done`.
    ///
    /// # Errors
    /// If the terminal's display cannot be set up, or the folder not be written.
    pub fn new(
        folder: &'a RunFolder,
        metrics: File,
        done: usize,
        settings: &Settings,
        waited: Option<Arc<Waited>>,
    ) -> Result<Self> {
        let style = ProgressStyle::with_template("{msg}\n{bar:40.blue/white.dim} {percent:>3}%")
            .context("the progress bar's template")?;
        let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        let bar = terminal.then(|| ProgressBar::new(1).with_style(style));
        Ok(Self {
            folder,
            metrics,
            events: EventFile::create(folder.path(), done)?,
            lambda: settings.training.lambda,
            batch: settings.training.batch,
            keep: settings.keep.clone(),
            best: best_so_far(folder),
            waited,
            steps_per_epoch: 1,
            steps: 1,
            epochs: 1,
            started: Instant::now(),
            times: VecDeque::new(),
            bar,
            matrix: String::new(),
            last_evaluation: String::new(),
            printed: 0,
            steps_seen: 0,
        })
    }

    /// Whether C is to be shown as it changes.
    pub fn wants_correlation(&self) -> bool {
        self.bar.is_some()
    }

    /// Takes in what happened.
    ///
    /// # Errors
    /// If the run's folder cannot be written.
    pub fn read(&mut self, event: Event) -> Result<()> {
        match &event {
            Event::Started {
                steps_per_epoch,
                steps,
                done,
                ..
            } => {
                self.steps_per_epoch = *steps_per_epoch;
                self.steps = *steps;
                self.epochs = steps / steps_per_epoch.max(&1);
                self.printed = *done;
                self.started = Instant::now();
                self.times.push_back(self.started);
                if *done > 0 {
                    say!("going on after step {done}");
                }
                // After the line above: from its first drawing on, the bar owns the last lines.
                if let Some(bar) = &self.bar {
                    bar.set_length(*steps as u64);
                }
            }
            Event::Step(report) => self.step(&event, report)?,
            Event::Correlation {
                step,
                width,
                values,
                milestone,
            } => {
                if self.bar.is_some() {
                    self.matrix = correlation::half_blocks(values, *width, TERMINAL_CELLS);
                }
                if *milestone {
                    let mut png = Cursor::new(Vec::new());
                    correlation::picture(values, *width).write_to(&mut png, ImageFormat::Png)?;
                    let name = format!("correlation/step-{step:08}.png");
                    self.folder.write(&name, png.get_ref())?;
                    self.events
                        .picture(*step, "correlation", *width, png.get_ref())?;
                }
            }
            Event::Evaluation {
                step,
                epoch,
                figures,
            } => {
                self.log(&event)?;
                let numbers = figures.iter().map(|f| (f.name.as_str(), f.value));
                self.events.numbers(*step, numbers)?;
                self.note_best(*step, figures.first().map(|figure| figure.value))?;
                self.draw_curves()?;
                let figures: Vec<_> = figures.iter().map(|f| format!("{} {f}", f.name)).collect();
                let when = match epoch {
                    0 => "before training".into(),
                    _ => format!("after epoch {epoch}"),
                };
                self.last_evaluation = format!("{when}: {}", figures.join(", "));
                if self.bar.is_none() {
                    say!("{}", self.last_evaluation);
                }
            }
            Event::Checkpoint { step, bytes } => {
                self.metrics.sync_data()?;
                self.folder.write_checkpoint(*step, bytes, self.keep.last)?;
                self.draw_curves()?;
            }
            Event::Paused { .. } => {}
        }
        Ok(())
    }

    fn note_best(&mut self, step: usize, value: Option<f64>) -> Result<()> {
        let Some(value) = value.filter(|value| self.best.is_none_or(|best| *value > best)) else {
            return Ok(());
        };
        // An untrained encoder is nothing to keep.
        if !self.keep.best || step == 0 {
            return Ok(());
        }
        self.best = Some(value);
        // It was saved before it was evaluated.
        self.folder.keep_as_best(step)
    }

    /// Leaves the terminal as the last lines of the run.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn step(&mut self, event: &Event, report: &StepReport) -> Result<()> {
        if self.steps_seen == 1 {
            // The first step compiles kernels: the speed is measured from its end on.
            self.times.pop_front();
        }
        self.times.push_back(Instant::now());
        if self.times.len() > SPEED_STEPS + 1 {
            self.times.pop_front();
        }
        let ends_epoch = report.step.is_multiple_of(self.steps_per_epoch);
        if report.step == 1 || report.step.is_multiple_of(METRICS_EVERY) || ends_epoch {
            self.log(event)?;
            let numbers = [
                ("loss", report.loss),
                ("loss/invariance", report.invariance),
                ("loss/redundancy", report.redundancy),
                ("correlation/diagonal", report.diagonal),
                ("correlation/off-diagonal", report.off_diagonal),
                ("rate/weights", report.rates.weights),
                ("rate/biases", report.rates.biases),
            ];
            let scale = report.loss_scale.map(|scale| ("loss/scale", scale));
            let skipped = report
                .skipped_steps
                .map(|steps| ("loss/skipped-steps", steps as f64));
            let numbers = numbers.into_iter().chain(scale).chain(skipped);
            self.events.numbers(report.step, numbers)?;
        }
        let (speed, left) = self.speed(report.step);
        let scale = match (report.loss_scale, report.skipped_steps) {
            (Some(scale), Some(skipped)) => format!("  scale {scale:.0}, {skipped} steps skipped"),
            _ => String::new(),
        };
        const TIMED: usize = 3;
        self.steps_seen += 1;
        if self.steps_seen == TIMED + 1 && self.bar.is_none() {
            say!(
                "about {} to the end, by the first steps",
                HumanDuration(left)
            );
        }
        let line = format!(
            "epoch {}/{}  loss {:.3} = {:.3} + {} x {:.2}  diagonal {:.3}  off-diagonal {:.3}  {:.0} images/s{scale}  {} left",
            report.epoch + 1,
            self.epochs,
            report.loss,
            report.invariance,
            self.lambda,
            report.redundancy,
            report.diagonal,
            report.off_diagonal,
            speed,
            HumanDuration(left),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(report.step as u64);
                bar.set_message(format!("{}{line}\n{}", self.matrix, self.last_evaluation));
            }
            None => {
                let every = (self.steps / PLAIN_LINES).max(1);
                if report.step == 1 || report.step >= self.printed + every {
                    self.printed = report.step;
                    say!("step {}/{}  {line}", report.step, self.steps);
                }
            }
        }
        Ok(())
    }

    /// Pictures a second over the last steps, and how long the rest takes.
    fn speed(&self, step: usize) -> (f64, Duration) {
        let (Some(first), Some(last)) = (self.times.front(), self.times.back()) else {
            return (0.0, Duration::ZERO);
        };
        let steps = (self.times.len() - 1).max(1) as f64;
        let a_step = (last.duration_since(*first).as_secs_f64() / steps).max(1e-9);
        let left = self.steps.saturating_sub(step) as f64 * a_step;
        (self.batch as f64 / a_step, Duration::from_secs_f64(left))
    }

    fn log(&mut self, event: &Event) -> Result<()> {
        let mut value = serde_json::to_value(event)?;
        if let Value::Object(fields) = &mut value {
            if let Event::Step(report) = event {
                let epochs = report.step as f64 / self.steps_per_epoch as f64;
                fields.insert("epochs".into(), json!(epochs));
            }
            if let Some(waited) = &self.waited {
                fields.insert("waited".into(), json!(waited.time().as_secs_f64()));
            }
            fields.insert(
                "seconds".into(),
                json!(self.started.elapsed().as_secs_f64()),
            );
        }
        writeln!(self.metrics, "{value}").context("cannot write metrics.jsonl: is the disk full?")
    }

    fn draw_curves(&self) -> Result<()> {
        let svg = chart::curves(&self.folder.read_metrics(), self.lambda)?;
        self.folder.write("curves.svg", svg.as_bytes())
    }
}

/// The best evaluation that the metrics hold, by its first figure.
fn best_so_far(folder: &RunFolder) -> Option<f64> {
    let lines = folder.read_metrics().into_iter();
    let evaluations = lines.filter(|line| line["event"] == "evaluation" && line["step"] != 0);
    // Older runs asked about the test part, which is another measure.
    let same = |line: &Value| {
        let name = line["figures"][0]["name"].as_str().unwrap_or_default();
        !name.starts_with("kNN on") || name.contains("held-out")
    };
    evaluations
        .filter(same)
        .filter_map(|line| line["figures"][0]["value"].as_f64())
        .max_by(f64::total_cmp)
}

/// A number of parameters, for people.
pub fn count(parameters: usize) -> String {
    match parameters {
        0..10_000 => format!("{parameters} weights"),
        10_000..10_000_000 => format!("{:.2} million weights", parameters as f64 / 1e6),
        _ => format!("{:.0} million weights", parameters as f64 / 1e6),
    }
}
