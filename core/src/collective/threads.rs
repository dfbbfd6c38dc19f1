//! Ranks that are threads of one process, each with a device of its own.

use std::any::Any;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Collective, CollectiveError, share};

/// A rank that is a thread. When it is dropped, the others cannot go on.
pub struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// Something that a rank gives to all.
type Part = Arc<dyn Any + Send + Sync>;

/// The exchange in progress.
struct State {
    /// What each rank gives, once it is there.
    given: Vec<Option<Part>>,
    /// What all gave, until every rank has taken it.
    all: Option<Arc<Vec<Part>>>,
    taken: usize,
    /// The first rank that ended.
    lost: Option<usize>,
}

impl Threads {
    /// The ranks of a group of this size, one for each thread.
    pub fn group(size: usize) -> Vec<Self> {
        let shared = Arc::new(Shared {
            size,
            state: Mutex::new(State {
                given: vec![None; size],
                all: None,
                taken: 0,
                lost: None,
            }),
            changed: Condvar::new(),
        });
        let rank = |rank| Self {
            rank,
            shared: shared.clone(),
        };
        (0..size).map(rank).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is changed in single steps, so that it is whole whenever a thread panics.
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// What all ranks gave in the same `call`, in order.
    fn all<T: Any + Send + Sync>(
        &self,
        call: &'static str,
        mine: T,
    ) -> Result<Vec<Arc<(&'static str, T)>>, CollectiveError> {
        let wait = |state| {
            let state = self.shared.changed.wait(state);
            state.unwrap_or_else(PoisonError::into_inner)
        };
        let lost = |state: &State| match state.lost {
            Some(rank) => Err(CollectiveError::Lost { rank }),
            None => Ok(()),
        };
        let mut state = self.state();
        // A fast rank may come again while slower ones still take from the last exchange.
        while state.all.is_some() {
            state = wait(state);
        }
        lost(&state)?;
        state.given[self.rank] = Some(Arc::new((call, mine)));
        if state.given.iter().all(Option::is_some) {
            let all = state.given.iter_mut().filter_map(Option::take).collect();
            state.all = Some(Arc::new(all));
            self.shared.changed.notify_all();
        }
        let all = loop {
            if let Some(all) = &state.all {
                break all.clone();
            }
            lost(&state)?;
            state = wait(state);
        };
        state.taken += 1;
        if state.taken == self.shared.size {
            (state.all, state.taken) = (None, 0);
            self.shared.changed.notify_all();
        }
        drop(state);
        let other = || CollectiveError::Transport("the ranks made different calls".into());
        let part = |part: &Part| match part.clone().downcast::<(&'static str, T)>() {
            Ok(part) if part.0 == call => Ok(part),
            _ => Err(other()),
        };
        all.iter().map(part).collect()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut state = self.state();
        state.lost.get_or_insert(self.rank);
        self.shared.changed.notify_all();
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.size
    }

    fn sum(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let all = self.all("sum", values.to_vec())?;
        if all.iter().any(|part| part.1.len() != values.len()) {
            let other = "the ranks add up different numbers of values";
            return Err(CollectiveError::Transport(other.into()));
        }
        // Each rank adds up a share, always in the order of the ranks, so that the result has the same bits in every run.
        let range = share(values.len(), self.rank, self.size());
        let mut sums = all[0].1[range.clone()].to_vec();
        for others in &all[1..] {
            let others = &others.1[range.clone()];
            sums.iter_mut().zip(others).for_each(|(sum, x)| *sum += x);
        }
        let mut rest = values;
        for sums in self.all("summed", sums)? {
            let (part, after) = rest.split_at_mut(sums.1.len());
            part.copy_from_slice(&sums.1);
            rest = after;
        }
        Ok(())
    }

    fn gather(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError> {
        let all = self.all("gather", values.to_vec())?;
        Ok(all.iter().map(|part| part.1.clone()).collect())
    }

    fn exchange(&self, parts: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, CollectiveError> {
        let all = self.all("exchange", parts)?;
        Ok(all.iter().map(|part| part.1[self.rank].clone()).collect())
    }

    fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        let mine = match self.rank {
            0 => std::mem::take(bytes),
            _ => Vec::new(),
        };
        *bytes = self.all("broadcast", mine)?[0].1.clone();
        Ok(())
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.all("barrier", ()).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::each_rank;

    #[test]
    fn every_rank_gets_the_same_sums() {
        let sums = each_rank(3, |ranks| {
            let rank = ranks.rank() as f32;
            let mut values: Vec<f32> = (0..7).map(|i| 0.1 * rank + i as f32).collect();
            for _ in 0..50 {
                ranks.sum(&mut values).unwrap();
                values.iter_mut().for_each(|value| *value /= 3.0);
            }
            values
        });
        assert!(sums.iter().all(|values| *values == sums[0]));
        for (i, value) in sums[0].iter().enumerate() {
            assert!((value - (0.1 + i as f32)).abs() < 1e-4, "{value}");
        }
    }

    #[test]
    fn what_ranks_have_arrives_in_their_order() {
        each_rank(3, |ranks| {
            let rank = ranks.rank();
            let gathered = ranks.gather(&vec![rank as f32; rank]).unwrap();
            assert_eq!(gathered, [vec![], vec![1.0], vec![2.0, 2.0]]);
            let part = |to| vec![(10 * rank + to) as f32];
            let got = ranks.exchange((0..3).map(part).collect()).unwrap();
            let expected = (0..3).map(|from| vec![(10 * from + rank) as f32]);
            assert_eq!(got, expected.collect::<Vec<_>>());
            let mut bytes = vec![rank as u8 + 7];
            ranks.broadcast(&mut bytes).unwrap();
            assert_eq!(bytes, [7]);
            ranks.barrier().unwrap();
        });
    }

    #[test]
    fn ranks_that_make_different_calls_are_told() {
        let ends = each_rank(2, |ranks| match ranks.rank() {
            0 => ranks.sum(&mut [1.0]),
            _ => ranks.gather(&[1.0]).map(|_| ()),
        });
        let told = |end: &Result<(), CollectiveError>| {
            matches!(
                end,
                Err(CollectiveError::Transport(_) | CollectiveError::Lost { .. })
            )
        };
        assert!(ends.iter().all(told), "{ends:?}");
    }

    #[test]
    fn a_rank_that_ends_ends_all() {
        let ends = each_rank(3, |ranks| {
            let mut values = [1.0];
            let first = ranks.sum(&mut values);
            if ranks.rank() == 1 {
                return first;
            }
            ranks.sum(&mut values)
        });
        assert_eq!(ends[1], Ok(()));
        for rank in [0, 2] {
            assert_eq!(ends[rank], Err(CollectiveError::Lost { rank: 1 }));
        }
    }
}
