//! What is compared on connections, and how each is set up.

use std::sync::Arc;

use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Recipient, Role, Sealer, Suite,
    codec::{OpeningCodec, SealingCodec},
    connection::{OpenedStream, SealedSink},
};
use snow::params::NoiseParams;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector, TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{PrivateKeyDer, ServerName},
        version::TLS13,
    },
};
use tokio_util::codec::{Decoder, Framed, LengthDelimitedCodec};

use crate::{
    ends::{End, Halves, Whole},
    gathered::Gathered,
    noise::NoiseCodec,
    version,
};

/// Buffers of all that have a choice.
const BUFFER: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    Aes,
    ChaCha,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// With the buffers that tokio-util gives it.
    AsItComes,
    /// In the frames of our own sink, without protection.
    Gathered,
    Tls(Cipher),
    /// With the frames of our own sink inside.
    TlsGathered(Cipher),
    Noise(Cipher),
    Codec(Cipher),
    Sink(Cipher),
}

pub use Cipher::{Aes, ChaCha};

/// All, and where the two that others are compared with stand.
pub const ALL: [Kind; 13] = [
    Kind::Plain,
    Kind::AsItComes,
    Kind::Gathered,
    Kind::Tls(Aes),
    Kind::Tls(ChaCha),
    Kind::TlsGathered(Aes),
    Kind::TlsGathered(ChaCha),
    Kind::Noise(Aes),
    Kind::Noise(ChaCha),
    Kind::Codec(Aes),
    Kind::Codec(ChaCha),
    Kind::Sink(Aes),
    Kind::Sink(ChaCha),
];
pub const PLAIN: usize = 0;
pub const TLS: usize = 3;

/// Which end of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Connects,
    Accepts,
}

impl Cipher {
    fn name(self) -> &'static str {
        match self {
            Aes => "AES-256-GCM",
            ChaCha => "ChaCha20-Poly1305",
        }
    }
}

impl Kind {
    pub fn name(self) -> String {
        match self {
            Self::Plain => "plain".into(),
            Self::AsItComes => "plain, as it comes".into(),
            Self::Gathered => "plain, our framing".into(),
            Self::Tls(cipher) => format!("TLS 1.3, {}", cipher.name()),
            Self::TlsGathered(cipher) => format!("TLS 1.3, our framing, {}", cipher.name()),
            Self::Noise(cipher) => format!("Noise, {}", cipher.name()),
            Self::Codec(cipher) => format!("sealwire codec, {}", cipher.name()),
            Self::Sink(cipher) => format!("sealwire sink, {}", cipher.name()),
        }
    }

    /// An end that is ready, after a handshake where there is one.
    pub async fn end(self, keys: &Keys, socket: TcpStream, side: Side) -> Box<dyn End> {
        match self {
            Self::Plain => framed(socket, LengthDelimitedCodec::new()),
            Self::AsItComes => Box::new(Whole(Framed::new(socket, LengthDelimitedCodec::new()))),
            Self::Gathered => Box::new(Whole(Gathered::new(socket))),
            Self::Tls(cipher) => framed(keys.tls(cipher, socket, side).await, LengthDelimitedCodec::new()),
            Self::TlsGathered(cipher) => Box::new(Whole(Gathered::new(keys.tls(cipher, socket, side).await))),
            Self::Noise(cipher) => keys.noise(cipher, socket, side).await,
            Self::Codec(cipher) => {
                let (sealer, opener) = keys.channels(cipher, side);
                let (from, to) = socket.into_split();
                Box::new(Halves(SealingCodec::from(sealer).framed(to), OpeningCodec::from(opener).framed(from)))
            }
            Self::Sink(cipher) => {
                let (sealer, opener) = keys.channels(cipher, side);
                let (from, to) = socket.into_split();
                Box::new(Halves(SealedSink::new(sealer, to), OpenedStream::new(opener, from).payloads()))
            }
        }
    }
}

/// Payloads in `codec`'s frames, with buffers as large as sealwire's.
fn framed<T, C>(io: T, codec: C) -> Box<dyn End>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    Framed<T, C>: 'static,
    C: Decoder,
    Whole<Framed<T, C>>: End,
{
    let mut framed = Framed::with_capacity(io, codec, BUFFER);
    framed.set_backpressure_boundary(BUFFER);
    Box::new(Whole(framed))
}

/// Everyone's long-term keys; both ends' in one place.
pub struct Keys {
    tls: [(TlsConnector, TlsAcceptor); 2],
    noise: snow::Keypair,
    ours: [(Recipient, Opener); 2],
}

impl Keys {
    pub fn generate() -> Self {
        let cmks = [Cmk::generate().unwrap(), Cmk::generate().unwrap()];
        Self {
            tls: certified(),
            noise: snow::Builder::new(noise_params(Aes)).generate_keypair().unwrap(),
            ours: cmks.map(|cmk| (cmk.recipient().clone(), Opener::new(Keyring::from(cmk)))),
        }
    }

    async fn tls(&self, cipher: Cipher, socket: TcpStream, side: Side) -> TlsStream<TcpStream> {
        let (connector, acceptor) = &self.tls[cipher as usize];
        match side {
            Side::Connects => connector.connect(name(), socket).await.unwrap().into(),
            Side::Accepts => acceptor.accept(socket).await.unwrap().into(),
        }
    }

    async fn noise(&self, cipher: Cipher, mut socket: TcpStream, side: Side) -> Box<dyn End> {
        let builder = snow::Builder::new(noise_params(cipher));
        let mut state = match side {
            Side::Connects => builder.remote_public_key(&self.noise.public).unwrap().build_initiator().unwrap(),
            Side::Accepts => builder.local_private_key(&self.noise.private).unwrap().build_responder().unwrap(),
        };
        // An ephemeral key and a tag each.
        let mut message = [0; 48];
        while !state.is_handshake_finished() {
            if state.is_my_turn() {
                assert_eq!(state.write_message(&[], &mut message).unwrap(), message.len());
                socket.write_all(&message).await.unwrap();
            } else {
                socket.read_exact(&mut message).await.unwrap();
                state.read_message(&message, &mut []).unwrap();
            }
        }
        framed(socket, NoiseCodec::new(state.into_transport_mode().unwrap()))
    }

    fn channels(&self, cipher: Cipher, side: Side) -> (ChannelSealer, ChannelOpener) {
        let suite = match cipher {
            Aes => Suite::X25519Aes256Gcm,
            ChaCha => Suite::X25519ChaCha20Poly1305,
        };
        let (role, own, other) = match side {
            Side::Connects => (Role::Initiator, 0, 1),
            Side::Accepts => (Role::Acceptor, 1, 0),
        };
        let sealer = Sealer::builder().to(self.ours[other].0.clone()).suite(suite).build().unwrap();
        let opener = self.ours[own].1.clone();
        (ChannelSealer::new(sealer, role, b""), ChannelOpener::new(opener, role, b""))
    }
}

fn noise_params(cipher: Cipher) -> NoiseParams {
    let name = match cipher {
        Aes => "Noise_NK_25519_AESGCM_BLAKE2s",
        ChaCha => "Noise_NK_25519_ChaChaPoly_BLAKE2s",
    };
    name.parse().unwrap()
}

fn name() -> ServerName<'static> {
    "localhost".try_into().unwrap()
}

/// By cipher: one certificate, and the client that trusts it.
fn certified() -> [(TlsConnector, TlsAcceptor); 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cert = made.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    [aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384, aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256].map(|suite| {
        let client = ClientConfig::builder_with_provider(only(suite)).with_protocol_versions(&[&TLS13]).unwrap();
        let client = client.with_root_certificates(roots.clone()).with_no_client_auth();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let server = ServerConfig::builder_with_provider(only(suite)).with_protocol_versions(&[&TLS13]).unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![cert.clone()], key).unwrap();
        (Arc::new(client).into(), Arc::new(server).into())
    })
}

fn only(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() })
}

/// What they are, for the report.
pub fn about() -> String {
    format!(
        "- plain: `LengthDelimitedCodec` of tokio-util {}, no protection.
- plain, as it comes: the same with the buffers of 8 KiB that `Framed` has where nothing is said.
- plain, our framing: frames gathered and handed out as the sealwire sink and stream do it, nothing sealed, and no buffer given back
  (gathered.rs in the benchmark).
- TLS 1.3: tokio-rustls {} (rustls {}, AWS-LC), one cipher suite, the same `LengthDelimitedCodec` inside; or our framing inside.
- Noise: snow {} as it comes, `Noise_NK_25519_…_BLAKE2s`, a message in frames of at most 65,535 bytes with two bytes of length.
- sealwire codec: `SealingCodec` and `OpeningCodec`, a channel each way, reuse of the DEK as it is where nothing is said.
- sealwire sink: `SealedSink`, and the payloads of `OpenedStream`, over the same channels, with their time limits; small messages that are fed
  join in batches.
",
        version("tokio-util"),
        version("tokio-rustls"),
        version("rustls"),
        version("snow"),
    )
}
