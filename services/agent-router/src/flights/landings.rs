//! How long the latest leaders were under way when they landed.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use super::Departure;

/// The landings that are remembered.
const KEPT: usize = 64;
/// Fewer say nothing.
const TELLING: usize = 8;

/// The times of the latest landings. Those of streams, at the pace of their readers, are kept apart from those of whole answers.
#[derive(Debug, Default)]
pub struct Landings {
    whole: Mutex<VecDeque<Duration>>,
    streamed: Mutex<VecDeque<Duration>>,
}

impl Landings {
    /// A leader lands now.
    pub fn add(&self, leader: Departure) {
        let mut times = self.of(leader.streaming).lock();
        if times.len() == KEPT {
            times.pop_front();
        }
        times.push_back(leader.at.elapsed());
    }

    /// The time in which nine of ten landed. `None` while too few have.
    pub fn usual(&self, streaming: bool) -> Option<Duration> {
        let mut times: Vec<Duration> = self.of(streaming).lock().iter().copied().collect();
        if times.len() < TELLING {
            return None;
        }
        let place = times.len() * 9 / 10;
        Some(*times.select_nth_unstable(place).1)
    }

    fn of(&self, streaming: bool) -> &Mutex<VecDeque<Duration>> {
        if streaming { &self.streamed } else { &self.whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, advance};

    #[tokio::test(start_paused = true)]
    async fn nine_of_ten_are_usual_and_the_oldest_are_forgotten() {
        let landings = Landings::default();
        let land = async |secs: u64, streaming: bool| {
            let leader = Departure { at: Instant::now(), streaming };
            advance(Duration::from_secs(secs)).await;
            landings.add(leader);
        };
        for secs in 1..TELLING as u64 {
            land(secs, false).await;
        }
        assert_eq!(landings.usual(false), None);
        for secs in TELLING as u64..=20 {
            land(secs, false).await;
        }
        assert_eq!((landings.usual(false), landings.usual(true)), (Some(Duration::from_secs(19)), None));
        for _ in 0..KEPT {
            land(2, false).await;
        }
        assert_eq!(landings.usual(false), Some(Duration::from_secs(2)));
    }
}
