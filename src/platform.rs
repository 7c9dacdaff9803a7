//! What the machine gives: randomness, the time, and the process that we are. Tests may inject the first two.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::TryRng;

use crate::crypto::Secret32;

/// The operating system's generator gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random generator is not available")]
pub struct EntropyError;

#[cfg(feature = "testing")]
type Fill = Box<dyn FnMut(&mut [u8]) + Send>;

/// Where random bytes come from.
#[derive(Default)]
pub(crate) enum Entropy {
    #[default]
    System,
    #[cfg(feature = "testing")]
    Injected(Fill),
}

impl Entropy {
    pub(crate) fn fill(&mut self, out: &mut [u8]) -> Result<(), EntropyError> {
        match self {
            Self::System => rand::rngs::SysRng.try_fill_bytes(out).map_err(|_| EntropyError),
            #[cfg(feature = "testing")]
            Self::Injected(fill) => {
                fill(out);
                Ok(())
            }
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], EntropyError> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    pub(crate) fn secret(&mut self) -> Result<Secret32, EntropyError> {
        let mut secret = Secret32::zeroed();
        self.fill(secret.bytes_mut())?;
        Ok(secret)
    }
}

/// Where the time comes from: the date for `created_at`, a clock that never goes back for ages.
#[derive(Clone, Default)]
pub(crate) enum Clock {
    #[default]
    System,
    /// Seconds since the Unix epoch, for both.
    #[cfg(feature = "testing")]
    Injected(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

/// A moment of the clock that never goes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    at: Duration,
    #[cfg(feature = "testing")]
    injected: u64,
}

impl Clock {
    /// Seconds since the Unix epoch; 0 where the system's date is before it.
    pub(crate) fn unix_seconds(&self) -> u64 {
        match self {
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            #[cfg(feature = "testing")]
            Self::Injected(seconds) => seconds.load(std::sync::atomic::Ordering::SeqCst),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment {
            at: uptime(),
            #[cfg(feature = "testing")]
            injected: self.unix_seconds(),
        }
    }

    /// The moment that comes `age` from now; `None` where none does.
    pub(crate) fn after(&self, age: Duration) -> Option<Moment> {
        Some(Moment {
            at: uptime().checked_add(age)?,
            #[cfg(feature = "testing")]
            injected: self.unix_seconds().saturating_add(age.as_secs()).saturating_add(u64::from(age.subsec_nanos() > 0)),
        })
    }

    /// Whether a moment has come.
    pub(crate) fn has_come(&self, moment: Moment) -> bool {
        match self {
            Self::System => uptime() >= moment.at,
            #[cfg(feature = "testing")]
            Self::Injected(_) => self.unix_seconds() >= moment.injected,
        }
    }

    pub(crate) fn since(&self, earlier: Moment) -> Duration {
        match self {
            Self::System => uptime().saturating_sub(earlier.at),
            #[cfg(feature = "testing")]
            Self::Injected(_) => Duration::from_secs(self.unix_seconds().saturating_sub(earlier.injected)),
        }
    }
}

/// Time since some moment of the past, which never goes back.
///
/// Linux tells the time of the last tick, a few milliseconds ago, for 6 ns instead of 23 (measured), and every message asks: whether its
/// DEK is too old. Ages are seconds at least.
#[cfg(target_os = "linux")]
fn uptime() -> Duration {
    let rustix::time::Timespec { tv_sec, tv_nsec } = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
}

#[cfg(not(target_os = "linux"))]
fn uptime() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// Seconds since the Unix epoch, as `2026-01-31T23:59:59Z`.
#[cfg(any(feature = "cli", feature = "kms"))]
pub(crate) fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Days of 400 years.
#[cfg(any(feature = "cli", feature = "kms"))]
const CYCLE: u64 = 146_097;

/// The date of a day since 1970-01-01, in the Gregorian calendar.
#[cfg(any(feature = "cli", feature = "kms"))]
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| u64::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)));
    // The calendar comes again after 400 years, so that a far day costs no more than a near one.
    let mut year = 1970 + days / CYCLE * 400;
    days %= CYCLE;
    while days >= 365 + leap(year) {
        days -= 365 + leap(year);
        year += 1;
    }
    let mut month = 1;
    for len in [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    (year, month, days + 1)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; `None` before.
#[cfg(feature = "kms")]
pub(crate) fn days_since_1970(year: u64, month: u8, day: u8) -> Option<u64> {
    const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_days_through = |year: u64| year / 4 - year / 100 + year / 400;
    let this_year = if month > 2 { leap_days_through(year) - leap_days_through(year - 1) } else { 0 };
    let before_month = BEFORE_MONTH.get(usize::from(month).checked_sub(1)?)?;
    let years = year.checked_sub(1970)? * 365 + leap_days_through(year - 1) - leap_days_through(1969);
    Some(years + before_month + this_year + u64::from(day).checked_sub(1)?)
}

/// Which process this is, to notice a fork.
///
/// Where the C library tells children that they were forked, looking costs a nanosecond; asking the kernel for the number of the process
/// costs as much as sealing a small message does (182 ns, measured). So messages are sealed after a look, and the number is asked for where
/// a DEK is taken up. A child that was made behind the C library's back, and seals under its parent's DEK, is not noticed: SECURITY.md says
/// so. (Asking at every flush of a connection took a fifth of the rate of small messages, measured.)
#[derive(Debug, Clone)]
pub(crate) struct Process {
    #[cfg(unix)]
    told: Option<forkguard::atfork::Guard>,
    id: u32,
}

impl Process {
    pub(crate) fn current() -> Self {
        Self {
            #[cfg(unix)]
            told: forkguard::atfork::Guard::try_new().ok(),
            id: std::process::id(),
        }
    }

    /// Whether this is still the same process.
    pub(crate) fn is_current(&self) -> bool {
        #[cfg(unix)]
        if let Some(told) = &self.told {
            return !told.clone().detected_fork();
        }
        self.is_current_by_number()
    }

    /// The same, asked of the kernel: for what costs a system call anyway, or a Diffie-Hellman.
    pub(crate) fn is_current_by_number(&self) -> bool {
        self.id == std::process::id()
    }
}

#[cfg(all(test, feature = "kms"))]
mod tests {
    use super::*;

    /// Dates and the seconds that `date -u +%s` gives for them.
    #[test]
    fn dates() {
        for (year, month, day, seconds) in [
            (1970, 1, 1, 0),
            (2000, 2, 29, 951_782_400),
            (2000, 3, 1, 951_868_800),
            (2026, 1, 31, 1_769_817_600),
            (2100, 3, 1, 4_107_542_400),
            (2399, 12, 31, 13_569_379_200),
        ] {
            assert_eq!(days_since_1970(year, month, day), Some(seconds / 86_400), "{year}-{month}-{day}");
            assert_eq!(utc(seconds), format!("{year:04}-{month:02}-{day:02}T00:00:00Z"));
        }
        assert_eq!(days_since_1970(1969, 12, 31), None);
    }
}
