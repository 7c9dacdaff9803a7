//! What must not be left behind when a signal ends the program: files that are not whole yet.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Files and folders that are nobody's yet.
struct Making {
    doomed: Vec<PathBuf>,
    /// Whether something is taking its place: what was there before is gone, and it would be wrong to say that nothing was done.
    finishing: bool,
}

static MAKING: Mutex<Making> = Mutex::new(Making { doomed: Vec::new(), finishing: false });

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

/// From now on a signal that ends the program removes what is doomed first. The exit code is the shell's for that signal: 128 and
/// its number.
pub(super) fn on_signals() {
    // Without it a signal ends the program as it always does, and leaves a file that is not whole.
    let Ok((runtime, next)) = listening() else { return };
    let watcher = std::thread::Builder::new().name("signals".into());
    let _ = watcher.spawn(move || {
        let number = runtime.block_on(next);
        let mut making = making();
        while making.finishing {
            drop(making);
            std::thread::sleep(Duration::from_millis(5));
            making = self::making();
        }
        // Whatever is made from here on waits for ever, and so is not left behind either.
        for path in &making.doomed {
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        std::process::exit(128 + number);
    });
}

/// What waits for signals. When this returns none is lost any more: it comes before anything is made.
fn listening() -> io::Result<(tokio::runtime::Runtime, impl Future<Output = i32>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let next = {
        let _inside = runtime.enter();
        next_signal()?
    };
    Ok((runtime, next))
}

#[cfg(unix)]
fn next_signal() -> io::Result<impl Future<Output = i32>> {
    use tokio::signal::unix::{SignalKind, signal};
    let [hangup, interrupt] = [SignalKind::hangup(), SignalKind::interrupt()];
    let [quit, terminate] = [SignalKind::quit(), SignalKind::terminate()];
    let (mut hung_up, mut interrupted) = (signal(hangup)?, signal(interrupt)?);
    let (mut stopped, mut terminated) = (signal(quit)?, signal(terminate)?);
    // A file that may not grow further is an error of the write then, like a full disk, and no end of the program.
    let too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    Ok(async move {
        let _kept = too_large;
        tokio::select! {
            _ = hung_up.recv() => hangup.as_raw_value(),
            _ = interrupted.recv() => interrupt.as_raw_value(),
            _ = stopped.recv() => quit.as_raw_value(),
            _ = terminated.recv() => terminate.as_raw_value(),
        }
    })
}

#[cfg(not(unix))]
fn next_signal() -> io::Result<impl Future<Output = i32>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        2
    })
}
