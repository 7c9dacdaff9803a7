//! Health and counters of a key service over HTTP, on an address of their own: `GET /healthz`, `GET /metrics` (OpenMetrics, which Prometheus reads). No secret, no
//! caller and no key is in them, and every label has a fixed set of values.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

/// Connections that ask for health or counters, at a time; more of them wait.
const WATCHERS: usize = 16;
/// How long one of them may take.
const WATCHER_TIME: Duration = Duration::from_secs(5);
/// Bytes of a watcher's request at the most: the least that the HTTP library knows.
const WATCHER_BYTES: usize = 8 * 1024;

/// What happened, in numbers; clones count together.
///
/// ```
/// let metrics = sealwire::kms::Metrics::default();
/// let [wrapped, unwrapped] = metrics.counters("kms_verbs", "Requests by what they ask", "verb", ["wrap", "unwrap"]);
/// unwrapped.add(2);
/// assert!(metrics.text().contains("kms_verbs_total{verb=\"unwrap\"} 2"));
/// # wrapped.add(0);
/// ```
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    /// Whether requests are taken.
    ready: AtomicBool,
    connections: Counter,
    requests: Counter,
    strangers: Gauge,
    served: Gauge,
    refused: [Count; 4],
}

/// One counter; clones are the same one.
#[derive(Debug, Clone)]
pub struct Count(Counter);

impl Count {
    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.inc_by(n);
    }
}

/// Why a connection was not served.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal {
    /// Its first message is no hello of a caller who is known.
    Hello,
    /// It took too long to begin.
    Late,
    /// A later stranger has its place.
    Evicted,
    /// There was no place among those who are served.
    Overloaded,
}

const REFUSALS: [&str; 4] = ["hello", "late", "evicted", "overloaded"];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (connections, requests) = (Counter::<u64, AtomicU64>::default(), Counter::<u64, AtomicU64>::default());
        let (strangers, served) = (Gauge::<i64, AtomicI64>::default(), Gauge::<i64, AtomicI64>::default());
        registry.register("sealwire_kms_connections", "Connections that were accepted", connections.clone());
        registry.register("sealwire_kms_requests", "Requests that were taken", requests.clone());
        registry.register("sealwire_kms_strangers", "Connections that have not begun", strangers.clone());
        registry.register("sealwire_kms_served", "Connections that are served", served.clone());
        let refused = count_by(&mut registry, "sealwire_kms_refused", "Connections that were not served", "reason", REFUSALS);
        let registry = Mutex::new(registry);
        Self(Arc::new(Inner { registry, ready: AtomicBool::new(false), connections, requests, strangers, served, refused }))
    }
}

/// Shows nothing of the numbers.
impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn count_by<const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: [&'static str; N],
) -> [Count; N] {
    let family = Family::<Vec<(&'static str, &'static str)>, Counter>::default();
    registry.register(name, help, family.clone());
    values.map(|value| Count(family.get_or_create_owned(&vec![(label, value)])))
}

impl Metrics {
    /// More counters, one for each value of a label; the text form puts `_total` behind their name.
    #[must_use]
    pub fn counters<const N: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: [&'static str; N],
    ) -> [Count; N] {
        let mut registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        count_by(&mut registry, name, help, label, values)
    }

    /// All of them, as OpenMetrics has them.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // A string takes everything.
        let _ = encode(&mut text, &registry);
        text
    }

    /// Whether a server runs and takes requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Relaxed)
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Relaxed);
    }

    pub(super) fn accepted(&self) {
        self.0.connections.inc();
    }

    pub(super) fn refused(&self, why: Refusal) {
        let [hello, late, evicted, overloaded] = &self.0.refused;
        match why {
            Refusal::Hello => hello,
            Refusal::Late => late,
            Refusal::Evicted => evicted,
            Refusal::Overloaded => overloaded,
        }
        .add(1);
    }

    pub(super) fn asked(&self) {
        self.0.requests.inc();
    }

    /// So many are here.
    pub(super) fn here(&self, strangers: usize, served: usize) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.0.strangers.set(number(strangers));
        self.0.served.set(number(served));
    }
}

/// Tells health and counters to who asks on `listener`, until `stop` is there. `is_healthy` is asked for each `/healthz`, besides whether the
/// server takes requests: 200 where both hold, otherwise 503.
///
/// It is not encrypted and asks nobody who he is: let it listen where only those can come who may see how much the service is asked.
pub async fn watch(
    listener: TcpListener,
    metrics: Metrics,
    is_healthy: impl Fn() -> bool + Send + Sync + 'static,
    stop: impl Future<Output = ()>,
) {
    let watched = Arc::new((metrics, is_healthy));
    let places = Arc::new(Semaphore::new(WATCHERS));
    let accepting = async {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let watched = watched.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let (metrics, is_healthy) = &*watched;
                    let answer = answer(&request, metrics, is_healthy);
                    async { Ok::<_, Infallible>(answer) }
                });
                let mut http = http1::Builder::new();
                http.keep_alive(false).max_buf_size(WATCHER_BYTES).timer(TokioTimer::new()).header_read_timeout(WATCHER_TIME);
                let _ = timeout(WATCHER_TIME, http.serve_connection(TokioIo::new(socket), service)).await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop => {}
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, is_healthy: &impl Fn() -> bool) -> Response<String> {
    if *request.method() != Method::GET {
        return response(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".into());
    }
    match request.uri().path() {
        "/healthz" if !metrics.is_ready() => response(StatusCode::SERVICE_UNAVAILABLE, "not serving\n".into()),
        "/healthz" if !is_healthy() => response(StatusCode::SERVICE_UNAVAILABLE, "not healthy\n".into()),
        "/healthz" => response(StatusCode::OK, "ok\n".into()),
        "/metrics" => of_type("application/openmetrics-text; version=1.0.0; charset=utf-8", StatusCode::OK, metrics.text()),
        _ => response(StatusCode::NOT_FOUND, "there are /healthz and /metrics\n".into()),
    }
}

fn response(status: StatusCode, text: String) -> Response<String> {
    of_type("text/plain; charset=utf-8", status, text)
}

fn of_type(content: &'static str, status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content));
    response
}
