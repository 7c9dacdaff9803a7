use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// How long a peer may take; `None` is for ever. They run on tokio's timer, which its runtime must have enabled.
///
/// A peer that sends a byte now and then is as late as one that is silent: only whole parts count, or 64 KiB of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Until the first message's DEK block and head are there and its DEK is open; 20 s where nothing is said.
    pub header: Option<Duration>,
    /// For each further part of a message that has begun (a block, a head, a segment, 64 KiB of a longer one), and from the last message
    /// to the end of the input; 20 s where nothing is said.
    pub part: Option<Duration>,
    /// Between two messages; 10 min where nothing is said.
    pub idle: Option<Duration>,
    /// In which the connection takes nothing of what is to be sent; 20 s where nothing is said.
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
    /// Whether `deadline` has passed; otherwise the task is woken when it does.
    pub(super) fn has_passed(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline else { return false };
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while let Poll::Ready(()) = sleep.as_mut().poll(cx) {
            if Instant::now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }
}
