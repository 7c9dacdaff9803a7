//! What must not be left behind when a signal ends the program: files that are not whole yet, and a terminal that shows nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

/// Files and folders that are nobody's yet.
struct Making {
    doomed: Vec<PathBuf>,
    /// Whether something is taking its place: what was there before is gone, and it would be wrong to say that nothing was done.
    finishing: bool,
    /// A terminal that does not show what is typed.
    #[cfg(unix)]
    unseen: Option<Changed>,
}

/// Tells a server that it is to end; there is one where [`graceful`] was asked for.
static STOPPING: OnceLock<watch::Sender<bool>> = OnceLock::new();

/// For a server: from now on the first signal tells it to end and leaves the rest to it; the next one ends the program.
pub(super) fn graceful() -> watch::Receiver<bool> {
    STOPPING.get_or_init(|| watch::channel(false).0).subscribe()
}

/// Counts hang-ups for a server that reads something again then; there is one where [`hangups`] was asked for.
static HANGUPS: OnceLock<watch::Sender<u64>> = OnceLock::new();

/// For a server: from now on a hang-up ends nothing, and counts.
pub(super) fn hangups() -> watch::Receiver<u64> {
    HANGUPS.get_or_init(|| watch::channel(0).0).subscribe()
}

static MAKING: Mutex<Making> = Mutex::new(Making {
    doomed: Vec::new(),
    finishing: false,
    #[cfg(unix)]
    unseen: None,
});

fn making() -> MutexGuard<'static, Making> {
    MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a signal waits: what is made is taking its place. Until something else is begun.
pub(super) fn finishing() {
    making().finishing = true;
}

/// Something that a signal removes, as long as this is there.
pub(super) struct Doomed(PathBuf);

impl Doomed {
    /// Makes something that a signal removes from its first moment on.
    pub(super) fn make<T>(make: impl FnOnce() -> io::Result<T>, path: impl FnOnce(&T) -> &Path) -> io::Result<(T, Self)> {
        // Held while it is made: a signal waits for it.
        let mut making = making();
        let made = make()?;
        let path = path(&made).to_owned();
        making.doomed.push(path.clone());
        making.finishing = false;
        Ok((made, Self(path)))
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        making().doomed.retain(|path| *path != self.0);
    }
}

/// How a terminal was, and how it is while it does not show what is typed.
#[cfg(unix)]
struct Changed {
    terminal: fs::File,
    before: rustix::termios::Termios,
    now: rustix::termios::Termios,
}

/// What stands for no key at all among a terminal's.
#[cfg(unix)]
const NO_KEY: u8 = if cfg!(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
)) {
    0xff
} else {
    0
};

/// A terminal that does not show what is typed, until this is dropped or a signal comes. There is one at a time.
#[cfg(unix)]
pub(super) struct Unseen;

#[cfg(unix)]
impl Unseen {
    pub(super) fn on(terminal: &fs::File) -> io::Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
        let kept = terminal.try_clone()?;
        let before = tcgetattr(terminal)?;
        let mut now = before.clone();
        now.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL);
        // Stopped, it would leave the shell a terminal that shows nothing, and go on with one that shows the passphrase.
        now.special_codes[SpecialCodeIndex::VSUSP] = NO_KEY;
        #[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
        {
            now.special_codes[SpecialCodeIndex::VDSUSP] = NO_KEY;
        }
        // Held while it changes: a signal waits, and finds what to put right. What was typed before the question is no answer.
        let mut making = making();
        tcsetattr(terminal, OptionalActions::Flush, &now)?;
        making.unseen = Some(Changed { terminal: kept, before, now });
        Ok(Self)
    }
}

#[cfg(unix)]
impl Drop for Unseen {
    fn drop(&mut self) {
        making().show();
    }
}

#[cfg(unix)]
impl Making {
    /// A terminal shows again what is typed. What was typed and not read was meant for us, and is thrown away.
    fn show(&mut self) {
        if let Some(Changed { terminal, before, .. }) = self.unseen.take() {
            // There is nobody to tell.
            let _ = rustix::termios::tcsetattr(terminal, rustix::termios::OptionalActions::Flush, &before);
        }
    }

    /// It shows nothing again, after it was somebody else's while the program was stopped.
    fn hide(&self) {
        if let Some(Changed { terminal, now, .. }) = &self.unseen {
            let _ = rustix::termios::tcsetattr(terminal, rustix::termios::OptionalActions::Flush, now);
        }
    }
}

/// From now on a signal that ends the program removes what is doomed first. The exit code is the shell's for that signal: 128 and
/// its number.
pub(super) fn on_signals() {
    // Without it a signal ends the program as it always does, and leaves a file that is not whole.
    let Ok((runtime, mut signals)) = listening() else { return };
    let watcher = std::thread::Builder::new().name("signals".into());
    let _ = watcher.spawn(move || {
        let mut number = runtime.block_on(next_ending(&mut signals));
        if let Some(server) = STOPPING.get() {
            server.send_replace(true);
            number = runtime.block_on(next_ending(&mut signals));
        }
        let mut making = making();
        while making.finishing {
            drop(making);
            std::thread::sleep(Duration::from_millis(5));
            making = self::making();
        }
        #[cfg(unix)]
        making.show();
        // Whatever is made from here on waits for ever, and so is not left behind either.
        for path in &making.doomed {
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        std::process::exit(128 + number);
    });
}

/// The number of the next signal that ends the program.
async fn next_ending(signals: &mut Signals) -> i32 {
    loop {
        match (signals.next().await, HANGUPS.get()) {
            (HANGUP, Some(hangups)) => hangups.send_modify(|count| *count += 1),
            (number, _) => return number,
        }
    }
}

/// The number of the hang-up signal, everywhere.
const HANGUP: i32 = 1;

/// What waits for signals. When this returns none is lost any more: it comes before anything is made.
fn listening() -> io::Result<(tokio::runtime::Runtime, Signals)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    Ok((runtime, signals))
}

/// The signals that end a program, each with its number.
#[cfg(unix)]
struct Signals {
    ending: [(i32, tokio::signal::unix::Signal); 4],
    /// Stopped and gone on with, which a shell does.
    continued: tokio::signal::unix::Signal,
    /// A file that may not grow further is an error of the write then, like a full disk, and no end of the program.
    _kept: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let of = |kind: SignalKind| Ok::<_, io::Error>((kind.as_raw_value(), signal(kind)?));
        let ending =
            [of(SignalKind::hangup())?, of(SignalKind::interrupt())?, of(SignalKind::quit())?, of(SignalKind::terminate())?];
        let other = |number: rustix::process::Signal| signal(SignalKind::from_raw(number.as_raw()));
        Ok(Self { ending, continued: other(rustix::process::Signal::CONT)?, _kept: other(rustix::process::Signal::XFSZ)? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|cx| {
            while self.continued.poll_recv(cx).is_ready() {
                making().hide();
            }
            let came = self.ending.iter_mut().find_map(|(number, signal)| signal.poll_recv(cx).is_ready().then_some(*number));
            came.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> i32 {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        2
    }
}
