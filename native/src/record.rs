//! The reader of a session that keeps the run's folder: metrics, events for TensorBoard, pictures of C, curves and
//! checkpoints.

use std::fs::File;
use std::io::{Cursor, Write as _};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use barlow_core::render;
use barlow_core::session::Message;
use barlow_core::train::StepReport;
use image::ImageFormat;
use serde_json::{Value, json};

use crate::chart;
use crate::data::WaitStats;
use crate::run_folder::RunFolder;
use crate::settings::Keep;
use crate::tensorboard::EventFile;

/// Steps between lines of `metrics.jsonl`.
const METRICS_EVERY: usize = 10;

/// The record of a run.
pub struct Record<'a> {
    folder: &'a RunFolder,
    metrics: File,
    events: EventFile,
    keep: Keep,
    lambda: f64,
    /// The best evaluation so far, by its first metric.
    best: Option<f64>,
    /// How long was waited for pictures, if they are streamed.
    waited: Option<Arc<WaitStats>>,
    steps_per_epoch: usize,
    started: Instant,
}

impl<'a> Record<'a> {
    /// A record that adds to those of a run that continues after the step `done`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn new(
        folder: &'a RunFolder,
        done: usize,
        keep: &Keep,
        waited: Option<Arc<WaitStats>>,
    ) -> Result<Self> {
        Ok(Self {
            folder,
            metrics: folder.metrics(done)?,
            events: EventFile::create(folder.path(), done)?,
            keep: keep.clone(),
            lambda: 0.0,
            best: best_so_far(folder),
            waited,
            steps_per_epoch: 1,
            started: Instant::now(),
        })
    }

    /// Keeps what `message` tells.
    ///
    /// # Errors
    /// If the run's folder cannot be written.
    pub fn read(&mut self, message: &Message) -> Result<()> {
        match message {
            Message::Opened(opened) => {
                (self.steps_per_epoch, self.lambda) =
                    (opened.steps_per_epoch.max(1), opened.config.lambda);
                self.started = Instant::now();
                self.log(message)
            }
            Message::Step { report, .. } => self.step(message, report),
            Message::Correlation {
                step,
                width,
                values,
                milestone: true,
            } => {
                let mut png = Cursor::new(Vec::new());
                render::picture(values, *width).write_to(&mut png, ImageFormat::Png)?;
                let name = format!("correlation/step-{step:08}.png");
                self.folder.write(&name, png.get_ref())?;
                self.events
                    .picture(*step, "correlation", *width, png.get_ref())?;
                self.log(message)
            }
            Message::Evaluation { step, metrics, .. } => {
                self.log(message)?;
                let numbers = metrics.iter().map(|m| (m.name.as_str(), m.value));
                self.events.numbers(*step, numbers)?;
                self.note_best(*step, metrics.first().map(|metric| metric.value))?;
                self.draw_curves()
            }
            Message::Checkpoint { step, bytes } => {
                self.metrics.sync_data()?;
                self.folder.write_checkpoint(*step, bytes, self.keep.last)?;
                self.log(message)?;
                self.draw_curves()
            }
            Message::Paused { .. } | Message::Finished { .. } | Message::Failed(_) => {
                self.log(message)
            }
            // What was asked for by a reader that is shown it.
            Message::Correlation { .. }
            | Message::Embeddings { .. }
            | Message::Inspection(_)
            | Message::Weights { .. }
            | Message::Refused { .. } => Ok(()),
        }
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

    fn step(&mut self, message: &Message, report: &StepReport) -> Result<()> {
        let ends_epoch = report.step.is_multiple_of(self.steps_per_epoch);
        if report.step != 1 && !report.step.is_multiple_of(METRICS_EVERY) && !ends_epoch {
            return Ok(());
        }
        self.log(message)?;
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
        self.events.numbers(report.step, numbers)
    }

    /// Adds a line to `metrics.jsonl`: the message without its payload, and when it came.
    fn log(&mut self, message: &Message) -> Result<()> {
        let mut value = serde_json::to_value(message)?;
        if let Value::Object(fields) = &mut value {
            if let Some(step) = message.step() {
                let epochs = step as f64 / self.steps_per_epoch as f64;
                fields.insert("epochs".into(), json!(epochs));
            }
            if let Some(waited) = &self.waited {
                fields.insert("waited".into(), json!(waited.time().as_secs_f64()));
            }
            let seconds = self.started.elapsed().as_secs_f64();
            fields.insert("seconds".into(), json!(seconds));
        }
        writeln!(self.metrics, "{value}").context("cannot write metrics.jsonl: is the disk full?")
    }

    fn draw_curves(&self) -> Result<()> {
        let svg = chart::curves(&self.folder.read_metrics(), self.lambda)?;
        self.folder.write("curves.svg", svg.as_bytes())
    }
}

/// The best evaluation that the metrics hold, by its first metric.
fn best_so_far(folder: &RunFolder) -> Option<f64> {
    let evaluations = folder.messages().into_iter().filter_map(|message| {
        let Message::Evaluation { step, metrics, .. } = message else {
            return None;
        };
        let metric = metrics.into_iter().next()?;
        // Older runs asked about the test part, which is another measure.
        let of_validation = ["held-out", "(validation)"];
        let is_same = of_validation.iter().any(|part| metric.name.contains(part));
        (step > 0 && is_same).then_some(metric.value)
    });
    evaluations.max_by(f64::total_cmp)
}
