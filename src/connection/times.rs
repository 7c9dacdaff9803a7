use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// How long a peer may take; `None` is for ever. They run on tokio's timer, which its runtime must have enabled.
///
/// A peer that sends a byte now and then is as late as one that is silent: only whole parts count, or 64 KiB of one. Time in which nobody
/// polled is not the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Until the first message's DEK block and head are there and its DEK is open; 20 s where nothing is said.
    pub header: Option<Duration>,
    /// For each further part of a message that has begun (a block, a head, a segment, 64 KiB of a longer one); 20 s where nothing is said.
    pub part: Option<Duration>,
    /// Between two messages; 10 min where nothing is said.
    pub idle: Option<Duration>,
    /// In which the connection takes nothing of what is to be sent, or does not finish a flush; 20 s where nothing is said. What happens behind a
    /// buffer is not seen from here: over a `BufWriter` or a TLS stream it is the time for the whole of that buffer.
    pub write: Option<Duration>,
}

impl Default for Times {
    fn default() -> Self {
        let (part, idle) = (Duration::from_secs(20), Duration::from_secs(600));
        Self { header: Some(part), part: Some(part), idle: Some(idle), write: Some(part) }
    }
}

impl Times {
    /// No limits, and no timer.
    pub const NONE: Self = Self { header: None, part: None, idle: None, write: None };
}

/// How much later than its end a limit is noticed where everything is in order.
const UNSEEN: Duration = Duration::from_secs(1);

/// Which of [`Times`] has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TimedOut {
    /// The first message's block and head.
    #[error("the peer did not begin: its first DEK block and head did not come in time")]
    Header,
    /// A part of a message.
    #[error("the peer stopped in the middle of a message")]
    Part,
    /// Between two messages.
    #[error("the peer was silent for too long")]
    Idle,
    /// A write.
    #[error("the peer does not read: nothing could be sent in time")]
    Write,
}

/// A timer that is set when something has to be waited for. It is left where it is while it may go off too early: then it is only set again.
#[derive(Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Whether `limit` has passed since `since`; otherwise the task is woken when it does. Long after that nobody has looked, and the peer may
    /// have waited for us: then `since` is now.
    pub(super) fn has_passed(&mut self, since: &mut Instant, limit: Duration, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        if since.checked_add(limit + UNSEEN).is_some_and(|unseen| now >= unseen) {
            *since = now;
        }
        let Some(deadline) = since.checked_add(limit) else { return false };
        if now >= deadline {
            return true;
        }
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline || sleep.is_elapsed() {
            sleep.as_mut().reset(deadline);
        }
        while let Poll::Ready(()) = sleep.as_mut().poll(cx) {
            sleep.as_mut().reset(deadline);
        }
        false
    }
}
