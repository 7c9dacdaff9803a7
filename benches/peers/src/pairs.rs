//! Two things measured in turn, so that a drift of the machine hits both.

use crate::common::median;

/// What one run took.
#[derive(Clone, Copy, Default)]
pub struct Taken {
    pub seconds: f64,
    /// Seconds of all its threads, its own and the kernel's; only a process tells.
    pub user: f64,
    pub system: f64,
    /// Most memory at once, in MiB; only a process tells.
    pub peak: f64,
}

/// Ours beside a peer's: medians of each, and what the pairs say of the two.
pub struct Sides {
    pub ours: Taken,
    pub peer: Taken,
    /// The peer's time as a multiple of ours: the median of the pairs, and the least and the most of them.
    pub ratio: f64,
    pub least: f64,
    pub most: f64,
}

/// Ours, peer, ours, peer …, so many times after one of each that does not count.
pub fn in_turn(pairs: usize, ours: &mut dyn FnMut() -> Taken, peer: &mut dyn FnMut() -> Taken) -> Sides {
    ours();
    peer();
    let (all_ours, all_peer): (Vec<_>, Vec<_>) = (0..pairs).map(|_| (ours(), peer())).unzip();
    let mut ratios: Vec<_> = all_ours.iter().zip(&all_peer).map(|(ours, peer)| peer.seconds / ours.seconds).collect();
    let ratio = median(&mut ratios);
    Sides { ours: medians(&all_ours), peer: medians(&all_peer), ratio, least: ratios[0], most: ratios[pairs - 1] }
}

fn medians(all: &[Taken]) -> Taken {
    let of = |field: fn(&Taken) -> f64| median(&mut all.iter().map(field).collect::<Vec<_>>());
    Taken {
        seconds: of(|taken| taken.seconds),
        user: of(|taken| taken.user),
        system: of(|taken| taken.system),
        peak: of(|taken| taken.peak),
    }
}
