//! What the panel remembers of a run, so that it can be drawn, replayed and saved.

use std::fmt::Write as _;

use barlow_core::train::StepReport;

use crate::protocol::{Matrix, Probe};

/// Matrices that are kept for the replay. Their number halves when it is reached: the run's length does not matter.
const MOST_FRAMES: usize = 160;

/// What a new matrix counts for in the smoothed one: it is a mean over about ten.
const SMOOTHING: f32 = 0.1;

/// A matrix of the replay, in hundred-and-twenty-sevenths: a quarter of the memory, and finer than eyes see.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The step it is of.
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

/// A run's past.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Every step.
    pub steps: Vec<StepReport>,
    /// How long each took, in milliseconds.
    pub milliseconds: Vec<f64>,
    /// Every look at what was learned; the first is the untrained encoder's.
    pub probes: Vec<Probe>,
    /// Matrices, evenly over the run.
    pub frames: Vec<Frame>,
    /// The last matrix, and its smoothed past.
    pub last: Option<(usize, Vec<f32>)>,
    /// The exponential mean of the matrices.
    pub smoothed: Vec<f32>,
    /// Rows and columns of the matrices.
    pub width: usize,
    /// One matrix in this many is kept.
    keep_every: usize,
    seen: usize,
}

impl History {
    /// Takes in a step.
    pub fn add_step(&mut self, report: StepReport, milliseconds: f64) {
        self.steps.push(report);
        self.milliseconds.push(milliseconds);
    }

    /// Takes in a look. One may be repeated, as for another query, and that at the untrained encoder comes again when a run
    /// goes on from a checkpoint.
    pub fn add_probe(&mut self, probe: Probe) {
        self.probes.retain(|old| old.step != probe.step);
        let place = self.probes.partition_point(|old| old.step < probe.step);
        self.probes.insert(place, probe);
    }

    /// Takes in a matrix.
    pub fn add_matrix(&mut self, matrix: &Matrix) {
        let values = matrix.values();
        if values.len() != matrix.width * matrix.width {
            return;
        }
        if self.width != matrix.width {
            (self.width, self.smoothed, self.seen) = (matrix.width, values.clone(), 0);
            (self.frames, self.keep_every) = (Vec::new(), 1);
        }
        // At first the mean of all so far, so that the first matrix does not linger.
        let share = SMOOTHING.max(1.0 / (self.seen + 1) as f32);
        for (smooth, value) in self.smoothed.iter_mut().zip(&values) {
            *smooth += share * (value - *smooth);
        }
        if self.seen.is_multiple_of(self.keep_every) {
            self.frames.push(Frame::new(matrix.step, &values));
            if self.frames.len() >= MOST_FRAMES {
                let mut index = 0;
                self.frames.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.keep_every *= 2;
            }
        }
        self.seen += 1;
        self.last = Some((matrix.step, values));
    }

    /// The mean time of the last steps, in milliseconds.
    pub fn step_time(&self) -> Option<f64> {
        const LAST: usize = 20;
        let last = &self.milliseconds[self.milliseconds.len().saturating_sub(LAST)..];
        (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64)
    }

    /// The metrics as a table: a line a step, with what was measured after it.
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "step,epoch,loss,invariance,redundancy,mean_diagonal,off_diagonal_rms,rate,milliseconds,score,effective_rank\n",
        );
        let mut probes = self.probes.iter().filter(|probe| probe.step > 0).peekable();
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
            while let Some(probe) = probes.next_if(|probe| probe.step <= report.step) {
                measured = Some(probe).filter(|probe| probe.step == report.step);
            }
            match measured {
                Some(probe) => _ = writeln!(text, "{},{}", probe.score, probe.rank),
                None => text.push_str(",\n"),
            }
        }
        text
    }
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
        }
    }

    #[test]
    fn long_runs_keep_their_beginning_and_their_end() {
        let mut history = History::default();
        for step in 1..=5000 {
            history.add_matrix(&Matrix::new(
                step,
                2,
                &[1.0, step as f32 / 5000.0, 0.0, 1.0],
            ));
        }
        let steps: Vec<usize> = history.frames.iter().map(|frame| frame.step).collect();
        assert!(
            steps.len() < MOST_FRAMES && steps.len() >= MOST_FRAMES / 2 - 1,
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
            history.add_matrix(&Matrix::new(step, 2, &[1.0, noise, noise, 1.0]));
        }
        assert!(history.smoothed[1].abs() < 0.06, "{}", history.smoothed[1]);
        assert_eq!(diagonal_and_rest(&history.smoothed, 2).0, 1.0);
    }

    #[test]
    fn the_table_has_a_line_a_step() {
        let mut history = History::default();
        (1..=3).for_each(|step| history.add_step(report(step), 7.0));
        let probe = Probe {
            step: 2,
            score: 0.5,
            rank: 9.0,
            places: Vec::new(),
            neighbors: Vec::new(),
            of_query: None,
            exciting: Vec::new(),
        };
        history.add_probe(probe.clone());
        history.add_probe(probe.clone());
        // As when a run goes on.
        history.add_probe(Probe { step: 0, ..probe });
        let steps: Vec<usize> = history.probes.iter().map(|probe| probe.step).collect();
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
