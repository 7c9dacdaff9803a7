//! What happens on connections, for those who watch (docs/events.md): counters for `metrics`, events for `tracing`. Without these features
//! nothing of it is there. No secret and no payload is told, and nothing for every message: counts are gathered and told when a connection
//! waits.

use crate::codec::CodecError;

/// Which way messages go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Opened,
    Sealed,
}

/// What went over one half of a connection, and what of it has not been told.
#[derive(Debug)]
pub(crate) struct Traffic {
    #[cfg_attr(not(any(feature = "metrics", feature = "tracing")), allow(dead_code, reason = "nothing is told then"))]
    way: Way,
    total: Counts,
    told: Counts,
    is_over: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    messages: u64,
    bytes: u64,
    deks: u64,
}

impl Traffic {
    pub(crate) fn new(way: Way) -> Self {
        Self { way, total: Counts::default(), told: Counts::default(), is_over: false }
    }

    /// A message of so many bytes.
    pub(crate) fn count(&mut self, bytes: usize) {
        self.total.messages = self.total.messages.saturating_add(1);
        self.total.bytes = self.total.bytes.saturating_add(crate::wire::len64(bytes));
    }

    /// The connection waits, and has had so many DEKs.
    pub(crate) fn waits(&mut self, deks: u64) {
        self.total.deks = deks;
        #[cfg(feature = "metrics")]
        {
            let (total, told) = (self.total, self.told);
            let [messages, bytes, deks] = match self.way {
                Way::Opened => ["sealwire_opened_messages_total", "sealwire_opened_bytes_total", "sealwire_opened_deks_total"],
                Way::Sealed => ["sealwire_sealed_messages_total", "sealwire_sealed_bytes_total", "sealwire_sealed_deks_total"],
            };
            let grown = [
                (messages, total.messages.saturating_sub(told.messages)),
                (bytes, total.bytes.saturating_sub(told.bytes)),
                (deks, total.deks.saturating_sub(told.deks)),
            ];
            for (name, by) in grown.into_iter().filter(|(_, by)| *by > 0) {
                metrics::counter!(name).increment(by);
            }
        }
        #[cfg(feature = "tracing")]
        if self.total.deks > self.told.deks {
            tracing::debug!(target: "sealwire", way = ?self.way, deks = self.total.deks, messages = self.total.messages, "a DEK was taken up");
        }
        self.told = self.total;
    }

    /// The connection is over, with this error where there is one.
    pub(crate) fn ends(&mut self, deks: u64, error: Option<&CodecError>) {
        self.over(deks, error.map_or("closed", CodecError::reason), error);
    }

    fn over(&mut self, deks: u64, reason: &str, error: Option<&CodecError>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.waits(deks);
        #[cfg(feature = "metrics")]
        {
            let reason = reason.to_owned();
            let name = match self.way {
                Way::Opened => "sealwire_opened_channels_total",
                Way::Sealed => "sealwire_sealed_channels_total",
            };
            metrics::counter!(name, "reason" => reason).increment(1);
        }
        #[cfg(feature = "tracing")]
        {
            let Counts { messages, bytes, deks } = self.total;
            match error {
                None => tracing::debug!(target: "sealwire", way = ?self.way, messages, bytes, deks, reason, "a channel ended"),
                Some(error) => {
                    tracing::warn!(target: "sealwire", way = ?self.way, messages, bytes, deks, reason, %error, "a channel failed");
                }
            }
        }
        let _ = (reason, error);
    }
}

/// Who lets go of a connection before its end has told nothing yet.
impl Drop for Traffic {
    fn drop(&mut self) {
        self.over(self.total.deks, "dropped", None);
    }
}
