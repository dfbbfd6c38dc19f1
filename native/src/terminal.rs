//! The reader of a session that shows it to people: a display that is drawn anew on a terminal, lines elsewhere.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use barlow_core::optim::Schedule;
use barlow_core::render;
use barlow_core::session::Message;
use barlow_core::train::StepReport;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// Lines that a run prints, about, where there is no terminal.
const PLAIN_LINES: usize = 30;
/// The length of a bar that shows a fraction.
const FULL: u64 = 1000;
/// Columns of C on a terminal.
const TERMINAL_CELLS: usize = 32;
/// How many steps the speed is measured over.
const SPEED_STEPS: usize = 50;

/// What is shown of a run.
pub struct Terminal {
    lambda: f64,
    batch: usize,
    steps: usize,
    epochs: usize,
    /// Of a run that ends by the clock.
    minutes: Option<f64>,
    schedule: Schedule,
    /// The scale of the views at the last step.
    scale: f64,
    pictures: usize,
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

impl Terminal {
    /// A display that shows nothing yet.
    ///
    /// # Errors
    /// If the terminal's display cannot be set up.
    pub fn new() -> Result<Self> {
        let style = ProgressStyle::with_template("{msg}\n{bar:40.blue/white.dim} {percent:>3}%")
            .context("the progress bar's template")?;
        let is_terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        Ok(Self {
            lambda: 0.0,
            batch: 1,
            steps: 1,
            epochs: 1,
            minutes: None,
            schedule: Schedule::default(),
            scale: 1.0,
            pictures: 1,
            times: VecDeque::new(),
            bar: is_terminal.then(|| ProgressBar::new(1).with_style(style)),
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

    /// Shows what `message` tells.
    pub fn read(&mut self, message: &Message) {
        match message {
            Message::Opened(opened) => {
                let config = &opened.config;
                (self.lambda, self.batch) = (config.lambda, config.batch);
                self.steps = opened.steps;
                self.epochs = config.schedule.epochs;
                self.minutes = config.schedule.minutes;
                self.schedule = config.schedule.clone();
                self.pictures = opened.pictures.max(1);
                // Of a run by the clock, thousandths are counted.
                self.printed = match config.schedule.minutes {
                    Some(_) => 0,
                    None => opened.done,
                };
                self.times.push_back(Instant::now());
                if opened.done > 0 {
                    say!("going on after step {}", opened.done);
                }
                // After the line above: from its first drawing on, the bar owns the last lines.
                if let Some(bar) = &self.bar {
                    bar.set_length(match self.minutes {
                        Some(_) => FULL,
                        None => opened.steps as u64,
                    });
                }
            }
            Message::Step { report, .. } => self.step(report),
            Message::Correlation { width, values, .. } if self.bar.is_some() => {
                self.matrix = render::half_blocks(values, *width, TERMINAL_CELLS);
            }
            Message::Evaluation { epoch, metrics, .. } => {
                let metrics: Vec<_> = metrics.iter().map(|m| format!("{} {m}", m.name)).collect();
                let when = match epoch {
                    0 => "before training".into(),
                    _ => format!("after epoch {epoch}"),
                };
                self.last_evaluation = format!("{when}: {}", metrics.join(", "));
                if self.bar.is_none() {
                    say!("{}", self.last_evaluation);
                }
                // The time that it took is none of the steps'.
                self.times.clear();
                self.times.push_back(Instant::now());
            }
            _ => {}
        }
    }

    /// Leaves the display as the last lines of the run.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn step(&mut self, report: &StepReport) {
        if self.steps_seen == 1 {
            // The first step compiles kernels: the speed is measured from its end on.
            self.times.pop_front();
        }
        let stage = self.schedule.stage(self.done(report));
        let scale = stage.map_or(1.0, |stage| stage.scale);
        if scale != self.scale {
            // Steps with views of another size say nothing of the speed.
            self.scale = scale;
            self.times.drain(..self.times.len().saturating_sub(1));
        }
        self.times.push_back(Instant::now());
        if self.times.len() > SPEED_STEPS + 1 {
            self.times.pop_front();
        }
        let (speed, left) = self.speed(report);
        let scale = match (report.loss_scale, report.skipped_steps) {
            (Some(scale), Some(skipped)) => format!("  scale {scale:.0}, {skipped} steps skipped"),
            _ => String::new(),
        };
        const TIMED: usize = 3;
        self.steps_seen += 1;
        if self.steps_seen == TIMED + 1 && self.bar.is_none() {
            match self.minutes {
                Some(_) => say!(
                    "about {:.0} epochs until the time is over, by the first steps",
                    speed
                        * left.as_secs_f64()
                        * self.schedule.relative_speed(report.progress.unwrap_or(0.0))
                        / self.pictures as f64
                ),
                None => say!(
                    "about {} to the end, by the first steps",
                    HumanDuration(left)
                ),
            }
        }
        let epoch = match self.minutes {
            Some(_) => (report.epoch + 1).to_string(),
            None => format!("{}/{}", report.epoch + 1, self.epochs),
        };
        let line = format!(
            "epoch {epoch}  loss {:.3} = {:.3} + {} x {:.2}  diagonal {:.3}  off-diagonal {:.3}  {:.0} images/s{scale}  {} left",
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
                bar.set_position(match report.progress {
                    Some(progress) => (progress * FULL as f64) as u64,
                    None => report.step as u64,
                });
                bar.set_message(format!("{}{line}\n{}", self.matrix, self.last_evaluation));
            }
            None => {
                // Of a run by the clock, thousandths are counted instead of steps.
                let (at, of) = match report.progress {
                    Some(progress) => ((progress * FULL as f64) as usize, FULL as usize),
                    None => (report.step, self.steps),
                };
                if report.step == 1 || at >= self.printed + (of / PLAIN_LINES).max(1) {
                    self.printed = at;
                    match report.progress {
                        Some(progress) => {
                            say!("step {} ({:.0}%)  {line}", report.step, 100.0 * progress);
                        }
                        None => say!("step {}/{}  {line}", report.step, self.steps),
                    }
                }
            }
        }
    }

    /// The fraction of the run that is done.
    fn done(&self, report: &StepReport) -> f64 {
        let of_steps = report.step as f64 / self.steps.max(1) as f64;
        report.progress.unwrap_or(of_steps)
    }

    /// Pictures per second over the last steps, and how long the rest takes.
    fn speed(&self, report: &StepReport) -> (f64, Duration) {
        let (Some(first), Some(last)) = (self.times.front(), self.times.back()) else {
            return (0.0, Duration::ZERO);
        };
        let steps = (self.times.len() - 1).max(1) as f64;
        let per_step = (last.duration_since(*first).as_secs_f64() / steps).max(1e-9);
        let left = match (self.minutes, report.progress) {
            (Some(minutes), Some(progress)) => 60.0 * minutes * (1.0 - progress),
            _ => {
                let steps = self.steps.saturating_sub(report.step) as f64;
                steps * per_step * self.schedule.relative_cost(self.done(report))
            }
        };
        (self.batch as f64 / per_step, Duration::from_secs_f64(left))
    }
}
