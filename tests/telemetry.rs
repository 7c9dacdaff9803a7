//! What is told of connections: counters and events, and that docs/events.md names them all. Everything here runs in one test, since both
//! facades are the process's.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Role, Sealer,
    connection::{OpenedStream, SealedSink},
};
use tracing::{Event, Subscriber, field::Visit, span};

type Counts = Arc<Mutex<BTreeMap<String, u64>>>;

struct One(String, Counts);

impl CounterFn for One {
    fn increment(&self, value: u64) {
        *self.1.lock().unwrap().entry(self.0.clone()).or_default() += value;
    }

    fn absolute(&self, _: u64) {
        unreachable!("counters only grow")
    }
}

struct Recording(Counts);

impl Recorder for Recording {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: String = key.labels().map(|label| format!(" {}={}", label.key(), label.value())).collect();
        Counter::from_arc(Arc::new(One(format!("{}{labels}", key.name()), self.0.clone())))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        unreachable!("there are counters only")
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        unreachable!("there are counters only")
    }
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "sealwire"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
}

#[tokio::test]
async fn what_happens_is_told() {
    let (counts, events) = (Counts::default(), Events::default());
    metrics::set_global_recorder(Recording(counts.clone())).unwrap();
    tracing::subscriber::set_global_default(events.clone()).unwrap();
    let cmk = || Cmk::from_x25519(&[1; 32]);
    let pair = |key: Cmk| {
        let (near, far) = tokio::io::duplex(1 << 16);
        let sealer = Sealer::builder().to(cmk().recipient().clone()).build().unwrap();
        let sink = SealedSink::new(ChannelSealer::new(sealer, Role::Initiator, b""), near);
        (sink, OpenedStream::new(ChannelOpener::new(Opener::new(Keyring::from(key)), Role::Acceptor, b""), far))
    };
    let secret = "attack at dawn";
    let (mut sink, mut stream) = pair(cmk());
    sink.set_context(Bytes::from_static(b"a context")).unwrap();
    for _ in 0..3 {
        sink.feed(Bytes::from(secret)).await.unwrap();
    }
    sink.renew();
    sink.flush().await.unwrap();
    sink.renew();
    sink.close().await.unwrap();
    while let Some(opened) = stream.next().await {
        assert_eq!(opened.unwrap().payload, secret);
    }
    // Sealed to somebody else, and then the connection goes away.
    let (mut sink, mut stream) = pair(Cmk::from_x25519(&[2; 32]));
    sink.send(Bytes::from(secret)).await.unwrap();
    assert!(stream.next().await.unwrap().is_err());
    drop(stream);
    assert!(sink.send(Bytes::from(secret)).await.is_err());

    let counts = counts.lock().unwrap().clone();
    let wanted = [
        ("sealwire_opened_bytes_total", 42),
        ("sealwire_opened_channels_total reason=closed", 1),
        ("sealwire_opened_channels_total reason=no_matching_key", 1),
        ("sealwire_opened_deks_total", 2),
        ("sealwire_opened_messages_total", 3),
        ("sealwire_sealed_bytes_total", 70),
        ("sealwire_sealed_channels_total reason=closed", 1),
        ("sealwire_sealed_channels_total reason=io", 1),
        ("sealwire_sealed_deks_total", 3),
        ("sealwire_sealed_messages_total", 5),
    ];
    assert_eq!(counts, wanted.map(|(name, n)| (name.to_owned(), n)).into());
    let events = events.0.lock().unwrap().clone();
    let failed = "WARN message=a channel failed way=Opened messages=0 bytes=0 deks=0 reason=\"no_matching_key\"";
    assert!(events.iter().any(|event| event.starts_with(failed)), "{events:?}");
    assert!(
        events
            .iter()
            .any(|event| event == "DEBUG message=a channel ended way=Opened messages=3 bytes=42 deks=2 reason=\"closed\""),
        "{events:?}"
    );
    assert!(events.iter().any(|event| event.starts_with("DEBUG message=a DEK was taken up way=Sealed")), "{events:?}");
    assert!(!events.iter().any(|event| event.contains("dawn") || event.contains("context")), "{events:?}");

    let documented = include_str!("../docs/events.md");
    for name in counts.keys() {
        assert!(documented.contains(&format!("`{}`", name.split(' ').next().unwrap())), "{name}");
    }
    for name in ["a DEK was taken up", "a channel ended", "a channel failed"] {
        assert!(documented.contains(&format!("`{name}`")), "{name}");
    }
}

/// Every reason that the code knows is explained.
#[test]
fn reasons_are_documented() {
    let documented = include_str!("../docs/events.md");
    let sources =
        [include_str!("../src/open/error.rs"), include_str!("../src/wire/error.rs"), include_str!("../src/codec/mod.rs")];
    let mut found = 0;
    for source in sources {
        let (_, body) = source.split_once("fn reason(&self)").unwrap();
        let body = body.split("    }\n\n").next().unwrap();
        for reason in body.split('"').skip(1).step_by(2) {
            assert!(documented.contains(&format!("`{reason}`")), "{reason}");
            found += 1;
        }
    }
    assert!(found >= 25, "{found}");
}
