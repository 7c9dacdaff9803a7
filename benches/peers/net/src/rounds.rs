//! Many things measured in turn, so that a drift of the machine hits all of them.

use std::time::{Duration, Instant};

use crate::common::median;

/// Seconds, of each contender in each round.
pub struct Rounds(Vec<Vec<f64>>);

impl Rounds {
    /// `measure` for each of so many contenders, so often, each time from another of them on, after a round that does not count.
    pub fn of<const K: usize>(rounds: usize, contenders: usize, mut measure: impl FnMut(usize) -> [f64; K]) -> [Self; K] {
        (0..contenders).for_each(|i| _ = measure(i));
        let mut all = [(); K].map(|()| Self(vec![Vec::new(); contenders]));
        for round in 0..rounds {
            for i in (0..contenders).map(|i| (i + round) % contenders) {
                for (values, value) in all.iter_mut().zip(measure(i)) {
                    values.0[i].push(value);
                }
            }
        }
        all
    }

    pub fn median(&self, of: usize) -> f64 {
        median(&mut self.0[of].clone())
    }

    /// How many times as fast as `to`: the median of what the rounds say.
    pub fn ratio(&self, of: usize, to: usize) -> f64 {
        median(&mut self.ratios(of, to))
    }

    /// How far from that median half of the rounds are at the most, as a part of it.
    pub fn spread(&self, of: usize, to: usize) -> f64 {
        let middle = self.ratio(of, to);
        median(&mut self.ratios(of, to).into_iter().map(|ratio| (ratio / middle - 1.0).abs()).collect::<Vec<_>>())
    }

    fn ratios(&self, of: usize, to: usize) -> Vec<f64> {
        self.0[of].iter().zip(&self.0[to]).map(|(of, to)| to / of).collect()
    }
}

/// How often something is to be done for it to take `target`.
pub fn calibrate(target: Duration, least: usize, most: usize, mut run: impl FnMut(usize) -> Duration) -> usize {
    let mut n = least;
    loop {
        let took = run(n);
        if took * 4 >= target || n >= most {
            return ((n as f64 * target.as_secs_f64() / took.as_secs_f64()) as usize).clamp(least, most);
        }
        n *= 2;
    }
}

pub fn timed(run: impl FnOnce()) -> Duration {
    let began = Instant::now();
    run();
    began.elapsed()
}
