//! Measures what ranks exchange.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{Collective, CollectiveError, Cost, cost};

/// A collective whose calls are counted and timed.
pub struct Timed {
    inner: Arc<dyn Collective>,
    traffic: Mutex<Traffic>,
}

/// What was exchanged since the last [`Timed::take`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Traffic {
    /// Calls.
    pub calls: usize,
    /// Seconds in calls, with the time in which a rank waited for the others to come.
    pub seconds: f64,
    /// Of which were spent waiting for the others to come.
    pub waiting: f64,
    /// What the model says of the same calls.
    pub model: Cost,
}

impl Timed {
    /// Measures the calls of `inner`. Before each, the ranks wait for each other, so that waiting is told from sending.
    pub fn new(inner: Arc<dyn Collective>) -> Self {
        Self {
            inner,
            traffic: Mutex::default(),
        }
    }

    /// What was exchanged since the last call.
    pub fn take(&self) -> Traffic {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut traffic)
    }

    fn measured<T>(
        &self,
        model: Cost,
        call: impl FnOnce(&dyn Collective) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        let start = Instant::now();
        self.inner.barrier()?;
        let waiting = start.elapsed().as_secs_f64();
        let result = call(self.inner.as_ref());
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.calls += 1;
        traffic.seconds += start.elapsed().as_secs_f64();
        traffic.waiting += waiting;
        traffic.model = traffic.model.and(model);
        result
    }
}

impl Collective for Timed {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn sum(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let model = cost::sum(self.size(), values.len() as f64);
        self.measured(model, |inner| inner.sum(values))
    }

    fn gather(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError> {
        let all = (values.len() * self.size()) as f64;
        self.measured(cost::gather(self.size(), all), |inner| inner.gather(values))
    }

    fn exchange(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, CollectiveError> {
        let sent: usize = parts.iter().map(Vec::len).sum();
        let model = cost::gather(self.size(), sent as f64);
        self.measured(model, |inner| inner.exchange(parts))
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        self.measured(Cost::default(), |inner| inner.broadcast(bytes))
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.measured(Cost::default(), |inner| inner.barrier())
    }
}

/// The network between ranks, as sums of few and of many numbers over them find it; the same on every rank.
///
/// # Errors
/// If the ranks cannot go on together.
pub fn measured_network(ranks: &dyn Collective) -> Result<cost::Network, CollectiveError> {
    /// Repetitions, of which the fastest counts.
    const TIMES: usize = 10;
    /// 16 MiB.
    const MANY: usize = 4 << 20;
    let seconds = |count: usize| -> Result<f64, CollectiveError> {
        let mut fastest = f64::INFINITY;
        let mut values = vec![0.0; count];
        for _ in 0..TIMES {
            ranks.barrier()?;
            let start = Instant::now();
            ranks.sum(&mut values)?;
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        Ok(fastest)
    };
    let (few, many) = (seconds(1)?, seconds(MANY)?);
    let (of_few, of_many) = (
        cost::sum(ranks.size(), 1.0),
        cost::sum(ranks.size(), MANY as f64),
    );
    let mut numbers = [
        few / of_few.messages.max(1.0),
        (many - few).max(1e-9) / of_many.bytes.max(1.0),
    ]
    .map(|number| (number / ranks.size() as f64) as f32);
    // The mean, so that all ranks know the same network.
    ranks.sum(&mut numbers)?;
    Ok(cost::Network {
        latency: f64::from(numbers[0]),
        bytes_per_second: 1.0 / f64::from(numbers[1]),
    })
}
