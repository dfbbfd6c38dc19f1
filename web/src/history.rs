//! The history of a run, which the panel keeps to draw, replay and export the run.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use barlow_core::evaluate::Inspection;
use barlow_core::train::StepReport;

use crate::batch::Batch;
use crate::texts::{filled, number, text};

/// Fewer matrices than this are kept for the replay. When this number is reached, every second one is dropped, so that
/// the memory does not depend on the run's length.
const MAX_FRAMES: usize = 160;

/// Fewer inspections than this are kept, by the same rule: each has the neighbors and places of all shown pictures.
const MAX_INSPECTIONS: usize = 401;

/// The weight of a new matrix in the smoothed one, which therefore averages over about ten matrices.
const SMOOTHING: f32 = 0.1;

/// A matrix of the replay, quantized to `i8` in steps of 1/127: a quarter of the memory of `f32`, and finer than the
/// eye can see.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The step that it belongs to.
    pub step: usize,
    entries: Vec<i8>,
}

impl Frame {
    fn new(step: usize, values: &[f32]) -> Self {
        let entries = values
            .iter()
            .map(|x| (x.clamp(-1.0, 1.0) * 127.0).round() as i8);
        Self {
            step,
            entries: entries.collect(),
        }
    }

    /// The entries, row after row.
    pub fn values(&self) -> Vec<f32> {
        self.entries.iter().map(|x| f32::from(*x) / 127.0).collect()
    }
}

/// Tells histories apart: two of them may have the same steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(u64);

impl Default for Id {
    /// One that no other history has.
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What the trainer has reported of a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What is drawn of it is kept under this.
    pub id: Id,
    /// The report of every step.
    pub steps: Vec<StepReport>,
    /// The duration of each step, in milliseconds.
    pub milliseconds: Vec<f64>,
    /// The redundancy term of each step, times the λ that it had: λ may have been changed since. Where λ is not known from the step
    /// itself, the first step or two after a change have the new one.
    pub redundancy: Vec<f64>,
    /// Inspections of the encoder, in order of steps; the first is the untrained encoder's.
    pub inspections: Vec<Inspection>,
    /// Matrices for the replay, evenly spaced over the run.
    pub frames: Vec<Frame>,
    /// The step and the entries of the last matrix.
    pub last: Option<(usize, Vec<f32>)>,
    /// The exponential moving average of the matrices.
    pub smoothed: Vec<f32>,
    /// The mean diagonal and the off-diagonal RMS of the moving average after each matrix, with its step.
    pub course: Vec<(usize, [f64; 2])>,
    /// Rows and columns of the matrices.
    pub width: usize,
    /// The embeddings that were asked for last.
    pub batch: Option<Batch>,
    /// Every `keep_every`-th matrix is kept.
    keep_every: usize,
    seen: usize,
}

impl History {
    /// Adds the report of a step. `redundancy` is its redundancy term times λ.
    pub fn add_step(&mut self, report: StepReport, milliseconds: f64, redundancy: f64) {
        self.steps.push(report);
        self.milliseconds.push(milliseconds);
        self.redundancy.push(redundancy);
    }

    /// Forgets what came after step `done`.
    pub fn rewind(&mut self, done: usize) {
        self.steps.truncate(done);
        self.milliseconds.truncate(done);
        self.redundancy.truncate(done);
        self.inspections
            .retain(|inspection| inspection.step <= done);
        self.frames.retain(|frame| frame.step <= done);
        self.course.retain(|(step, _)| *step <= done);
    }

    /// The last inspection up to a step.
    pub fn inspection_at(&self, step: usize) -> Option<&Inspection> {
        let until = self.inspections.partition_point(|known| known.step <= step);
        until.checked_sub(1).map(|last| &self.inspections[last])
    }

    /// Adds an inspection, and replaces an earlier one of the same step: a new query repeats the inspection of a step, and a run
    /// that resumes from a checkpoint repeats the untrained encoder's.
    pub fn add_inspection(&mut self, inspection: Inspection) {
        self.inspections.retain(|old| old.step != inspection.step);
        let place = self
            .inspections
            .partition_point(|old| old.step < inspection.step);
        self.inspections.insert(place, inspection);
        if self.inspections.len() >= MAX_INSPECTIONS {
            drop_every_second(&mut self.inspections);
        }
    }

    /// Takes in C of a step, `width x width`.
    pub fn add_matrix(&mut self, step: usize, width: usize, values: Vec<f32>) {
        if values.len() != width * width {
            return;
        }
        if self.width != width {
            (self.width, self.smoothed, self.seen) = (width, values.clone(), 0);
            (self.frames, self.keep_every) = (Vec::new(), 1);
            self.course.clear();
        }
        // At first the plain mean of all matrices, so that the first one does not dominate for long.
        let share = SMOOTHING.max(1.0 / (self.seen + 1) as f32);
        for (smooth, value) in self.smoothed.iter_mut().zip(&values) {
            *smooth += share * (value - *smooth);
        }
        if self.seen.is_multiple_of(self.keep_every) {
            self.frames.push(Frame::new(step, &values));
            if self.frames.len() >= MAX_FRAMES {
                drop_every_second(&mut self.frames);
                self.keep_every *= 2;
            }
        }
        self.seen += 1;
        let (diagonal, rest) = diagonal_and_rest(&self.smoothed, width);
        self.course.push((step, [diagonal, rest]));
        self.last = Some((step, values));
    }

    /// The noise of the smoothed matrix's entries, divided by that of one matrix's: of averages of independent batches.
    pub fn smoothed_noise(&self) -> f64 {
        // The variance of an exponential moving average with weight s is s / (2 - s) of a value's; at first it is a mean.
        let smoothing = f64::from(SMOOTHING);
        let of_mean = 1.0 / self.seen.max(1) as f64;
        of_mean.max(smoothing / (2.0 - smoothing)).sqrt()
    }

    /// The mean duration of the last 20 steps, in milliseconds.
    pub fn step_time(&self) -> Option<f64> {
        const LAST: usize = 20;
        let last = &self.milliseconds[self.milliseconds.len().saturating_sub(LAST)..];
        (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64)
    }

    /// The metrics as CSV: one line per step, with score and rank where an inspection followed the step.
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "step,epoch,loss,invariance,redundancy,mean_diagonal,off_diagonal_rms,rate,milliseconds,score,effective_rank\n",
        );
        let mut inspections = self
            .inspections
            .iter()
            .filter(|inspection| inspection.step > 0)
            .peekable();
        for (report, milliseconds) in self.steps.iter().zip(&self.milliseconds) {
            _ = write!(
                text,
                "{},{},{},{},{},{},{},{},{milliseconds:.2},",
                report.step,
                report.epoch,
                report.loss,
                report.invariance,
                report.redundancy,
                report.diagonal,
                report.off_diagonal,
                report.rates.weights,
            );
            let mut measured = None;
            while let Some(inspection) =
                inspections.next_if(|inspection| inspection.step <= report.step)
            {
                measured = Some(inspection).filter(|inspection| inspection.step == report.step);
            }
            match measured {
                Some(inspection) => _ = writeln!(text, "{},{}", inspection.score, inspection.rank),
                None => text.push_str(",\n"),
            }
        }
        text
    }
}

/// Keeps the first, the third, and so on.
fn drop_every_second<T>(values: &mut Vec<T>) {
    let mut index = 0;
    values.retain(|_| {
        index += 1;
        index % 2 == 1
    });
}

/// The mean of the diagonal of a `width x width` matrix, and the root mean square of the rest.
pub fn diagonal_and_rest(values: &[f32], width: usize) -> (f64, f64) {
    let (mut diagonal, mut rest) = (0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let value = f64::from(*value);
        if index / width == index % width {
            diagonal += value;
        } else {
            rest += value * value;
        }
    }
    let others = (width * width.saturating_sub(1)).max(1) as f64;
    (diagonal / width.max(1) as f64, (rest / others).sqrt())
}

/// C of a step in words, for a screen reader.
pub fn describe(step: usize, values: &[f32], width: usize) -> String {
    if values.is_empty() {
        return text("c.empty").to_owned();
    }
    let (diagonal, rest) = diagonal_and_rest(values, width);
    filled(
        "c.spoken",
        &[
            ("step", &step.to_string()),
            ("width", &width.to_string()),
            ("diagonal", &number(diagonal, 2)),
            ("rest", &number(rest, 3)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use barlow_core::optim::Rates;

    use super::*;

    fn report(step: usize) -> StepReport {
        StepReport {
            step,
            epoch: 0,
            loss: 3.5,
            invariance: 3.0,
            redundancy: 0.5,
            diagonal: 0.25,
            off_diagonal: 0.1,
            rates: Rates {
                weights: 0.5,
                biases: 0.5,
            },
            loss_scale: None,
            skipped_steps: None,
            progress: None,
        }
    }

    fn inspection(step: usize) -> Inspection {
        Inspection {
            step,
            score: 0.5,
            rank: 9.0,
            places: Vec::new(),
            neighbors: Vec::new(),
            of_query: None,
            exciting: Vec::new(),
        }
    }

    #[test]
    fn long_runs_keep_their_beginning_and_their_end() {
        let mut history = History::default();
        for step in 1..=5000 {
            history.add_matrix(step, 2, vec![1.0, step as f32 / 5000.0, 0.0, 1.0]);
        }
        let steps: Vec<usize> = history.frames.iter().map(|frame| frame.step).collect();
        assert!(
            steps.len() < MAX_FRAMES && steps.len() >= MAX_FRAMES / 2 - 1,
            "{}",
            steps.len()
        );
        assert_eq!(steps[0], 1);
        assert!(steps.last().unwrap() + 100 > 5000, "{steps:?}");
        let gaps: Vec<usize> = steps.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap == gaps[0]), "{gaps:?}");
        assert!((history.smoothed[1] - 1.0).abs() < 0.01);
    }

    #[test]
    fn smoothing_takes_the_noise_out() {
        let mut history = History::default();
        for step in 1..200 {
            let noise = if step % 2 == 0 { 0.5 } else { -0.5 };
            history.add_matrix(step, 2, vec![1.0, noise, noise, 1.0]);
        }
        assert!(history.smoothed[1].abs() < 0.06, "{}", history.smoothed[1]);
        assert_eq!(diagonal_and_rest(&history.smoothed, 2).0, 1.0);
    }

    #[test]
    fn smoothing_takes_as_much_noise_out_as_it_says() {
        let mut history = History::default();
        assert_eq!(history.smoothed_noise(), 1.0);
        let mut rng = barlow_core::random::Rng::new(0, barlow_core::random::Purpose::Sample, 0, 0);
        let width = 40;
        for step in 1..60 {
            let values = (0..width * width).map(|_| rng.normal());
            history.add_matrix(step, width, values.collect());
        }
        let squares = history.smoothed.iter().map(|x| f64::from(*x).powi(2));
        let measured = (squares.sum::<f64>() / (width * width) as f64).sqrt();
        // The standard error of a standard deviation of 1600 values is 1.8%.
        let ratio = measured / history.smoothed_noise();
        assert!((0.93..1.07).contains(&ratio), "{ratio}");
    }

    #[test]
    fn histories_differ_though_their_steps_are_the_same() {
        assert_ne!(History::default().id, History::default().id);
    }

    #[test]
    fn long_runs_keep_few_inspections() {
        let mut history = History::default();
        for step in 0..5000 {
            history.add_inspection(inspection(10 * step));
        }
        let kept = &history.inspections;
        assert!((MAX_INSPECTIONS / 2..MAX_INSPECTIONS).contains(&kept.len()));
        assert_eq!(kept[0].step, 0);
        assert_eq!(history.inspection_at(5).unwrap().step, 0);
        assert!(history.inspection_at(50_000).unwrap().step > 49_000);
        history.rewind(20_000);
        assert!(history.inspection_at(50_000).unwrap().step <= 20_000);
    }

    #[test]
    fn csv_has_one_line_per_step() {
        let mut history = History::default();
        (1..=3).for_each(|step| history.add_step(report(step), 7.0, 0.5));
        history.add_inspection(inspection(2));
        history.add_inspection(inspection(2));
        // As when a run resumes.
        history.add_inspection(inspection(0));
        let steps: Vec<usize> = history
            .inspections
            .iter()
            .map(|inspection| inspection.step)
            .collect();
        assert_eq!(steps, [0, 2]);
        let csv = history.csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[2].ends_with("7.00,0.5,9"), "{}", lines[2]);
        assert!(lines[3].ends_with("7.00,,"), "{}", lines[3]);
        let commas = |line: &str| line.matches(',').count();
        assert!(lines.iter().all(|line| commas(line) == commas(lines[0])));
    }
}
