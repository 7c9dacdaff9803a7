//! Segments on several cores. They come out in the order in which they went in, whatever the order in which they are done.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use zeroize::Zeroize;

use crate::{crypto::Refused, platform::Process, wire::len64};

/// Bytes after which further threads are worth their start.
const SMALL: u64 = 1 << 20;
/// Segments under way for each thread: one that it has, and some that wait, so that it does not: waking up takes as long as a segment.
const EACH: usize = 4;
/// Bytes under way at the most, where the segments are large.
const HELD: usize = 64 << 20;

/// What is done to a segment, where it is.
pub(super) trait Work: Send + Sync + 'static {
    fn run(&self, segment: &mut Segment) -> Result<(), Refused>;
}

/// A segment on its way. What is left in it is wiped.
pub(super) struct Segment {
    pub(super) index: u64,
    pub(super) last: bool,
    pub(super) bytes: Vec<u8>,
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// A segment, and whether the work on it succeeded.
pub(super) struct Finished {
    pub(super) segment: Segment,
    pub(super) result: Result<(), Refused>,
}

/// The caller and the threads that help it. Where there is one thread it is the caller's.
pub(super) struct Crew<W> {
    shared: Arc<Shared<W>>,
    threads: usize,
    helpers: Vec<JoinHandle<()>>,
    process: Process,
    /// Segments that have gone in and not come out, the first of them first.
    under_way: VecDeque<u64>,
    /// Bytes that have gone in.
    total: u64,
}

struct Shared<W> {
    work: W,
    state: Mutex<State>,
    more: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Segment>,
    done: Vec<Finished>,
    closed: bool,
}

impl<W> Shared<W> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Work> Shared<W> {
    fn run(&self, mut segment: Segment) {
        // A segment must come back whatever happens, or the caller waits for ever.
        let result = catch_unwind(AssertUnwindSafe(|| self.work.run(&mut segment))).unwrap_or(Err(Refused));
        self.state().done.push(Finished { segment, result });
        self.done.notify_one();
    }

    fn help(&self) {
        let mut state = self.state();
        while !state.closed {
            match state.waiting.pop_front() {
                Some(segment) => {
                    drop(state);
                    self.run(segment);
                    state = self.state();
                }
                None => state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl<W: Work> Crew<W> {
    pub(super) fn new(work: W) -> Self {
        let shared = Shared { work, state: Mutex::default(), more: Condvar::new(), done: Condvar::new() };
        let (shared, process) = (Arc::new(shared), Process::current());
        Self { shared, threads: 1, helpers: Vec::new(), process, under_way: VecDeque::new(), total: 0 }
    }

    pub(super) fn work(&self) -> &W {
        &self.shared.work
    }

    /// How many threads there may be for segments of this size, the caller's among them. They start when there is enough to do.
    pub(super) fn set_threads(&mut self, threads: usize, segment: usize) {
        self.threads = threads.min(HELD / segment / EACH).max(1);
    }

    /// Whether another segment may go in: what is held is bounded by the threads, whatever the payload.
    pub(super) fn has_room(&self) -> bool {
        let most = if self.helpers.is_empty() { 1 } else { self.threads.saturating_mul(EACH) };
        self.under_way.len() < most
    }

    /// Whether this is the process in which it was made.
    pub(super) fn is_at_home(&self) -> bool {
        self.process.is_current()
    }

    /// The segment that waits for the caller, where nobody else could do it.
    pub(super) fn waits_for_caller(&self, fits: impl Fn(&Segment) -> bool) -> bool {
        self.threads == 1 && self.shared.state().waiting.front().is_some_and(fits)
    }

    /// Whether the caller may as well do the next segment: nobody else is there, or enough waits for all others.
    pub(super) fn is_callers(&self) -> bool {
        self.threads == 1 || (!self.helpers.is_empty() && self.shared.state().waiting.len() > self.helpers.len())
    }

    /// A segment that the caller has done.
    pub(super) fn push_done(&mut self, finished: Finished) {
        self.under_way.push_back(finished.segment.index);
        self.shared.state().done.push(finished);
    }

    pub(super) fn push(&mut self, segment: Segment) {
        self.under_way.push_back(segment.index);
        self.total = self.total.saturating_add(len64(segment.bytes.len()));
        if self.threads > 1 && self.helpers.is_empty() && self.total > SMALL {
            self.start();
        }
        self.shared.state().waiting.push_back(segment);
        if !self.helpers.is_empty() {
            self.shared.more.notify_one();
        }
    }

    /// A segment that waits for the caller alone, and may as well be done elsewhere; `fits` says which.
    pub(super) fn take_waiting(&mut self, fits: impl Fn(&Segment) -> bool) -> Option<Segment> {
        if self.threads > 1 {
            return None;
        }
        let mut state = self.shared.state();
        let segment = if state.waiting.front().is_some_and(fits) { state.waiting.pop_front() } else { None };
        if segment.is_some() {
            self.under_way.pop_front();
        }
        segment
    }

    /// Starts the threads; with fewer of them, or none, it is only slower.
    fn start(&mut self) {
        for _ in 1..self.threads {
            let shared = self.shared.clone();
            let started = std::thread::Builder::new().name("sealwire".into()).spawn(move || shared.help());
            match started {
                Ok(helper) => self.helpers.push(helper),
                Err(_) => break,
            }
        }
        if self.helpers.is_empty() {
            self.threads = 1;
        }
    }

    /// The next segment that is done. The caller works as long as there is work, and waits for what others are at; without
    /// `wait` it does neither. `None` where nothing is under way.
    pub(super) fn pop(&mut self, wait: bool) -> Option<Finished> {
        let next = *self.under_way.front()?;
        // Helpers do not survive a fork, and are not waited for; where there are none, there is nothing to wait for.
        let wait = self.helpers.is_empty() || (wait && self.is_at_home());
        loop {
            let mut state = self.shared.state();
            if let Some(at) = state.done.iter().position(|done| done.segment.index == next) {
                self.under_way.pop_front();
                return Some(state.done.swap_remove(at));
            }
            if !wait {
                return None;
            }
            match state.waiting.pop_front() {
                Some(segment) => {
                    drop(state);
                    self.shared.run(segment);
                }
                None => drop(self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner)),
            }
        }
    }

    /// Forgets what is under way.
    pub(super) fn clear(&mut self) {
        let waiting = std::mem::take(&mut self.shared.state().waiting);
        self.under_way.retain(|index| waiting.iter().all(|segment| segment.index != *index));
        while self.pop(true).is_some() {}
    }
}

impl<W> Drop for Crew<W> {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.more.notify_all();
        if self.process.is_current() {
            // What they are at is wiped when this returns.
            self.helpers.drain(..).for_each(|helper| drop(helper.join()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread::sleep, time::Duration};

    /// Takes longer for some segments than for others, and cannot do 13.
    struct Uneven;

    impl Work for Uneven {
        fn run(&self, segment: &mut Segment) -> Result<(), Refused> {
            sleep(Duration::from_micros(segment.index % 5 * 200));
            assert_ne!(segment.index, 17, "what panics is refused");
            segment.bytes[0] = segment.bytes[0].wrapping_add(1);
            if segment.index == 13 { Err(Refused) } else { Ok(()) }
        }
    }

    #[test]
    fn segments_come_out_in_the_order_in_which_they_went_in() {
        for threads in [1, 2, 5] {
            let mut crew = Crew::new(Uneven);
            crew.set_threads(threads, 40_000);
            let (mut most, mut came) = (0, 0);
            let mut check = |finished: Finished| {
                assert_eq!(finished.segment.index, came);
                assert_eq!(finished.result.is_err(), came == 13 || came == 17);
                came += 1;
            };
            for index in 0..60u64 {
                while !crew.has_room() {
                    check(crew.pop(true).unwrap());
                }
                crew.push(Segment { index, last: false, bytes: vec![index as u8; 40_000] });
                most = most.max(crew.under_way.len());
            }
            while let Some(finished) = crew.pop(true) {
                check(finished);
            }
            assert_eq!(came, 60);
            assert_eq!(most, if threads == 1 { 1 } else { threads * EACH });
            assert_eq!(crew.helpers.len(), threads - 1);
        }
    }

    #[test]
    fn what_is_cleared_does_not_come() {
        let mut crew = Crew::new(Uneven);
        crew.set_threads(3, 10);
        crew.total = SMALL;
        for index in 0..6 {
            crew.push(Segment { index, last: false, bytes: vec![0; 10] });
        }
        crew.clear();
        assert!(crew.under_way.is_empty() && crew.pop(true).is_none());
        crew.push(Segment { index: 2, last: true, bytes: vec![0; 10] });
        assert_eq!(crew.pop(true).unwrap().segment.index, 2);
    }

    #[test]
    fn small_payloads_start_no_thread() {
        let mut crew = Crew::new(Uneven);
        crew.set_threads(8, 1 << 16);
        for index in 0..16 {
            crew.push(Segment { index, last: false, bytes: vec![0; 1 << 16] });
            crew.pop(true).unwrap();
        }
        assert!(crew.helpers.is_empty());
    }

    #[test]
    fn large_segments_have_fewer_threads() {
        let mut crew = Crew::new(Uneven);
        for (segment, threads) in [(1 << 12, 64), (1 << 20, 16), (1 << 22, 4), (1 << 24, 1)] {
            crew.set_threads(64, segment);
            assert_eq!(crew.threads, threads);
        }
    }
}
