//! serve, identity: a store on sockets.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::spawn_blocking};

use super::{
    args::{IdentityArgs, ServeArgs, StoreArgs},
    service::{open_store, root_key},
};
use crate::{
    cli::{
        Failure, cleanup,
        fail::{Remark, note, print_line, remark, remark_as_json, show},
        keys::{never_over, read_text, write_key_file},
        listen::{files, runtime},
        report::utc,
    },
    keys::KEY_FILE_MAX,
    kms::{AccessPolicy, Identity, Listener, LocalService, POLICY_MAX, Server, ServerLimits, Stopped, watch as watch_numbers},
    platform::Clock,
    wire::inspect::escape,
};

pub(crate) const HELP: &str = "Examples:
  sealwire kms serve --store keys --root-key-file root.key --on 0.0.0.0:7310 --identity server.identity --policy policy.toml
  sealwire kms serve --replica --store copy/state --audit-log log --root-key-file root.key --on unix:/run/sealwire.sock --identity server.identity --policy policy.toml

The policy says who may do what; all else is denied:
  [[caller]]
  name = \"orders\"
  key = \"sws1…\"                      # what `sealwire recipient` says of his sender's key file
  expires = 2027-01-31T00:00:00Z      # optional
  revoked = false                     # optional
  allow = [{ verbs = [\"generate-data-key\", \"decrypt-data-key\"], keys = [\"orders\"] }]

SIGHUP reads the policy again; one that is malformed is refused, and the old one stays. Write another
file and rename it over the policy: one that is half written may not look malformed. SIGTERM answers what has come, and ends.";

/// How often the log is made durable, what is due destroyed, and a copy of a store looked at.
const TEND: Duration = Duration::from_secs(1);

pub(super) fn identity(args: &IdentityArgs) -> Result<(), Failure> {
    // Told before anything is made.
    if args.output.exists() {
        return Err(never_over(&args.output));
    }
    let identity = if args.pq { Identity::generate_pq()? } else { Identity::generate()? };
    write_key_file(&args.output, &identity.to_text(&utc(std::time::SystemTime::now())))?;
    note(&format!("identity: {}", show(&args.output)));
    print_line(identity.public().to_string().trim_end())
}

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    if args.json {
        remark_as_json();
    }
    lock_memory();
    let text = read_text(&args.identity, "server's identity", KEY_FILE_MAX)?;
    crate::cli::keys::warn_of_permissions(&args.identity);
    let identity = Identity::from_text(&text).map_err(|error| Failure::usage(format!("{}: {error}", show(&args.identity))))?;
    let policy = read_policy(&args.policy)?;
    let service = Arc::new(open(args)?);
    service.set_policy(policy);
    let limits = limits();
    let runtime = runtime()?;
    let served = runtime.block_on(serve(args, identity, service.clone(), limits));
    runtime.shutdown_background();
    // The last lines of the log.
    service.tend()?;
    served
}

fn open(args: &ServeArgs) -> Result<LocalService, Failure> {
    let StoreArgs { store: folder, root } = &args.store;
    if args.replica {
        return Ok(LocalService::open_replica(folder, &root_key(folder, root)?, args.audit_log.as_deref())?);
    }
    open_store(folder, root)
}

fn read_policy(path: &Path) -> Result<AccessPolicy, Failure> {
    let text = read_text(path, "policy", POLICY_MAX)?;
    let policy = AccessPolicy::from_toml(&text).map_err(|error| Failure::usage(format!("{}: {error}", show(path))))?;
    for said in policy.remarks(Clock::default().unix_seconds()) {
        remark(Remark::Note, &format!("{}: {said}", show(path)));
    }
    Ok(policy)
}

async fn serve(args: &ServeArgs, identity: Identity, service: Arc<LocalService>, limits: ServerLimits) -> Result<(), Failure> {
    let report = Report { json: args.json };
    let mut listeners = Vec::new();
    let mut stop = cleanup::graceful();
    let hangups = cleanup::hangups();
    for on in &args.on {
        listeners.push(listen(on).await?);
    }
    let watcher = match &args.metrics {
        Some(on) => Some(TcpListener::bind(on).await.map_err(|error| Failure::io(escape(on.as_bytes()), &error))?),
        None => None,
    };
    // Before anyone is told that we are there: a signal is heeded from then on.
    for (on, listener) in args.on.iter().zip(&listeners) {
        report.listening(on, listener);
    }
    if let Some(Ok(address)) = watcher.as_ref().map(TcpListener::local_addr) {
        report.watched(address);
    }
    let healthy = Arc::new(AtomicBool::new(true));
    let tending = tokio::spawn(tend(service.clone(), healthy.clone()));
    let reloading = tokio::spawn(reload(args.policy.clone(), service.clone(), hangups, report));
    let server = Server::new(identity, service.clone(), limits);
    service.count_in(&server.metrics());
    let watching = watcher.map(|listener| {
        let healthy = healthy.clone();
        tokio::spawn(watch_numbers(listener, server.metrics(), move || healthy.load(Relaxed), std::future::pending()))
    });
    let stopped = server.run(listeners, async move { drop(stop.wait_for(|stop| *stop).await) }).await;
    if let Some(watching) = watching {
        watching.abort();
    }
    tending.abort();
    reloading.abort();
    report.stopped(stopped);
    Ok(())
}

async fn listen(on: &str) -> Result<Listener, Failure> {
    let failed = |error: io::Error| Failure::io(escape(on.as_bytes()), &error);
    #[cfg(unix)]
    if let Some(path) = on.strip_prefix("unix:") {
        // Linux would make up a name that is no file's, and lets every user connect there.
        if path.is_empty() {
            return Err(Failure::usage("--on unix: names no socket; name its path, as in unix:/run/sealwire/kms.sock"));
        }
        remove_stale(Path::new(path)).await;
        return Ok(bind(Path::new(path)).map_err(failed)?.into());
    }
    Listener::tcp(on).await.map_err(failed)
}

/// A socket for its owner, and for his group where the umask leaves it that; for others never.
#[cfg(unix)]
fn bind(path: &Path) -> io::Result<tokio::net::UnixListener> {
    use rustix::fs::{Mode, fchmod};
    let socket = tokio::net::UnixSocket::new_stream()?;
    // Before it has a name, so that at no moment it is open to all; elsewhere the umask alone decides until it is there.
    if cfg!(target_os = "linux") {
        fchmod(&socket, Mode::from_raw_mode(0o660))?;
    }
    socket.bind(path)?;
    if cfg!(not(target_os = "linux")) {
        std::fs::set_permissions(path, crate::cli::replace::new_mode(0o660))?;
    }
    socket.listen(1024)
}

/// Removes the socket of a server that is gone. One that answers is left alone, and so is everything that is no socket.
#[cfg(unix)]
async fn remove_stale(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    if is_socket && tokio::net::UnixStream::connect(path).await.is_err_and(|error| refused(&error)) {
        let _ = std::fs::remove_file(path);
    }
}

/// What goes wrong is told when it begins, and when it is over.
async fn tend(service: Arc<LocalService>, healthy: Arc<AtomicBool>) {
    let mut every = tokio::time::interval(TEND);
    let mut told = None;
    loop {
        every.tick().await;
        let tended = service.clone();
        let Ok(tended) = spawn_blocking(move || tended.tend().and_then(|()| Ok(tended.check()?))).await else { return };
        let now = tended.err().map(|error| Failure::from(error).message);
        healthy.store(now.is_none(), Relaxed);
        match (&told, &now) {
            (before, Some(message)) if before.as_ref() != Some(message) => remark(Remark::Error, message),
            (Some(_), None) => remark(Remark::Note, "the store can be written and read again"),
            _ => {}
        }
        told = now;
    }
}

/// Reads the policy again when a signal says so; keeps the old one where the new one is none.
async fn reload(path: PathBuf, service: Arc<LocalService>, mut hangups: watch::Receiver<u64>, report: Report) {
    while hangups.changed().await.is_ok() {
        match read_policy(&path) {
            Ok(policy) => {
                let callers = policy.len();
                service.set_policy(policy);
                // Whoever reads this may rely on it.
                report.policy(callers, &path);
            }
            Err(failure) => remark(Remark::Error, &format!("the policy stays as it was: {}", failure.message)),
        }
    }
}

/// Files that are not connections: the store's, the listeners', the runtime's.
const OTHERS: usize = 64;

/// Fewer connections where there may be fewer files: while strangers hold the last one, nobody is let in and no state is written.
fn limits() -> ServerLimits {
    let files = files().and_then(|files| usize::try_from(files).ok());
    files.map_or_else(ServerLimits::default, limits_within)
}

/// A quarter for strangers, of whom the oldest gives way.
fn limits_within(files: usize) -> ServerLimits {
    let (all, room) = (ServerLimits::default(), files.saturating_sub(OTHERS));
    let strangers = all.strangers.min(room / 4).max(1);
    let connections = all.connections.min(room.saturating_sub(strangers)).max(1);
    ServerLimits { strangers, connections, connections_of_caller: connections.div_ceil(2), ..all }
}

/// Keeps memory from the disk where the system lets us without counting: with a limit, memory that is asked for later would be refused.
fn lock_memory() {
    #[cfg(target_os = "linux")]
    {
        use rustix::{
            mm::{MlockAllFlags, mlockall},
            process::{Resource, getrlimit},
        };
        let unlimited = getrlimit(Resource::Memlock).current.is_none();
        let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        if !unlimited || mlockall(all).is_err() {
            remark(
                Remark::Note,
                "memory is not locked, and keys may reach a swap device; allow it (ulimit -l unlimited, LimitMEMLOCK=infinity)",
            );
        }
    }
}

/// What is told on standard error.
#[derive(Clone, Copy)]
struct Report {
    json: bool,
}

impl Report {
    fn listening(self, on: &str, listener: &Listener) {
        let address = match listener {
            Listener::Tcp(listener) => listener.local_addr().map_or_else(|_| on.into(), |address| address.to_string()),
            _ => escape(on.as_bytes()),
        };
        if self.json {
            note(&json!({ "event": "listening", "address": address }).to_string());
        } else {
            note(&format!("listening on {address}"));
        }
    }

    fn watched(self, address: std::net::SocketAddr) {
        if self.json {
            note(&json!({ "event": "watched", "address": address.to_string() }).to_string());
        } else {
            note(&format!("health and metrics on http://{address}"));
        }
    }

    /// Who asks is judged by another policy from now on.
    fn policy(self, callers: usize, path: &Path) {
        if self.json {
            note(&json!({ "event": "policy", "callers": callers, "from": show(path) }).to_string());
        } else {
            note(&format!("policy: {callers} callers, from {}", show(path)));
        }
    }

    fn stopped(self, stopped: Stopped) {
        if self.json {
            note(&json!({ "event": "stopped", "cut": stopped.cut }).to_string());
        } else if stopped.cut > 0 {
            note(&format!("stopped; {} connections were cut before all of their answers were read", stopped.cut));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::{CONNECTIONS, STRANGERS};

    /// There is always a file left to accept the next connection with, and for the store.
    #[test]
    fn connections_leave_files() {
        for files in [128, 256, 1024, 4096, 10_000] {
            let limits = limits_within(files);
            assert!(limits.strangers + limits.connections + OTHERS <= files, "{files}: {limits:?}");
            assert!((1..=limits.connections / 2 + 1).contains(&limits.connections_of_caller), "{files}: {limits:?}");
            assert!(limits.strangers * 8 >= files - OTHERS || limits.strangers == STRANGERS, "{files}: {limits:?}");
        }
        let many = limits_within(usize::MAX);
        assert_eq!((many.strangers, many.connections, many.connections_of_caller), (STRANGERS, CONNECTIONS, CONNECTIONS / 2));
    }
}
