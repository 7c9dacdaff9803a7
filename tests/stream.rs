//! Payloads larger than memory: the same messages as any other, released segment by segment, in whole or in part.

use std::{
    cell::Cell,
    io::{self, Cursor, Read, Seek, SeekFrom, Write},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use kit::{Forge, TestRng, pad};
use sealwire::{
    Cmk, Keyring, Limits, OpenError, Opener, ParseError, Policy, PolicyError, ReplayWindow, Reuse, Rewrap, SealError, Sealed,
    Sealer, SealerBuilder, SenderKey, Senders, Standing, block_name, open,
    stream::{DetachedWriter, OpenReader, SealWriter, StreamError},
    wire::DekBlock,
};

mod kit;

const ALICE: [u8; 32] = [0xa1; 32];
const SIZES: [usize; 12] = [0, 1, 7, 8, 4095, 4096, 4097, 8191, 8192, 8193, 20_000, 65_536];

fn cmk() -> Cmk {
    Cmk::from_x25519(&[1; 32])
}

fn key() -> [u8; 32] {
    *cmk().recipient().as_x25519().unwrap()
}

fn opener() -> Opener {
    Opener::new(Keyring::from(cmk()))
}

fn builder() -> SealerBuilder {
    Sealer::builder().to(cmk().recipient().clone()).segment_log2(12)
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// What a reader gives before it ends or fails, read in pieces of `n`.
fn drain(mut reader: impl Read, n: usize) -> (Vec<u8>, io::Result<()>) {
    let (mut got, mut buffer) = (Vec::new(), vec![0; n]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return (got, Ok(())),
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(error) => {
                assert!(reader.read(&mut buffer).is_err(), "it stays failed");
                return (got, Err(error));
            }
        }
    }
}

fn cause(error: io::Error) -> OpenError {
    match StreamError::of(error) {
        StreamError::Open(error) => error,
        other => panic!("{other:?}"),
    }
}

/// A writer gives the bytes of a one-shot seal, whatever the pieces; and readers of both kinds open both. Padded, signed and not.
#[test]
fn streams_are_messages() {
    for len in SIZES {
        for (pad, signed) in [(false, false), (true, false), (false, true), (true, true)] {
            let settings = || {
                let mut fills = [vec![0xd1; 32], vec![0x5a; 16], kit::EPHEMERAL.to_vec()].into_iter();
                let clock = Arc::new(std::sync::atomic::AtomicU64::new(1_700_000_000));
                let entropy = move |out: &mut [u8]| out.copy_from_slice(&fills.next().unwrap());
                let builder = builder().pad(pad).binding(*b"bound").testing_entropy(entropy).testing_clock(clock);
                let builder = if signed { builder.sign_messages_with(SenderKey::from_ed25519(&ALICE)) } else { builder };
                builder.build().unwrap()
            };
            let whole = settings().seal(b"ctx", &payload(len)).unwrap();
            for piece in [1, 4095, 5000, usize::MAX] {
                if piece == 1 && len > 10_000 {
                    continue;
                }
                let mut writer = SealWriter::seekable(&mut settings(), b"ctx", Cursor::new(Vec::new())).unwrap();
                for piece in payload(len).chunks(piece.min(len.max(1))) {
                    writer.write_all(piece).unwrap();
                }
                assert!(writer.finish().unwrap().into_inner() == whole, "{len} by {piece}, padded {pad}, signed {signed}");
            }
            let policy = Policy { binding: b"bound".to_vec(), ..Policy::default() };
            let opener = Opener::builder(Keyring::from(cmk())).policy(policy).build();
            for n in [1, 4096, 100_000] {
                let reader = OpenReader::new(&opener, &whole[..]).unwrap();
                assert_eq!(&reader.context()[..], b"ctx");
                assert_eq!(reader.sender().is_none(), signed && whole.len() > 153 + 128 + 15 + 4096 + 20);
                let (got, end) = drain(reader, n);
                assert!(end.is_ok() && got == payload(len), "{len} by {n}, padded {pad}, signed {signed}");
            }
        }
    }
}

/// Whatever follows its first byte that is wrong, what is given is a prefix of what was sent, in whole segments. Proves SEG-6.
#[test]
fn what_is_released_is_the_authentic_prefix() {
    let sent = payload(20_000);
    let sealed = builder().build().unwrap().seal(b"", &sent).unwrap();
    let body = 153 + 12;
    for cut in (0..sealed.len()).step_by(97).chain(body..body + 30) {
        let reader = OpenReader::new(&opener(), &sealed[..cut]);
        let (got, end) = match reader {
            Ok(reader) => drain(reader, 1000),
            Err(StreamError::Open(error)) => {
                assert!(matches!(error, OpenError::Parse(ParseError::Truncated { .. })), "{cut}: {error:?}");
                continue;
            }
            Err(other) => panic!("{other:?}"),
        };
        let error = end.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(matches!(cause(error), OpenError::Parse(ParseError::Truncated { .. })));
        let whole = (cut - body) / 4116;
        assert!(got == sent[..whole * 4096], "{cut}: {} bytes", got.len());
    }
    let mut rng = TestRng::new(7);
    for at in (body..sealed.len()).step_by(61) {
        let mut changed = sealed.clone();
        changed[at] ^= 1 << rng.below(8);
        let before = (at - body) / 4116;
        match OpenReader::new(&opener(), &changed[..]) {
            Ok(reader) => {
                let (got, end) = drain(reader, 4096);
                assert!(end.is_err() && got == sent[..before * 4096], "{at}");
            }
            Err(_) => assert_eq!(before, 0),
        }
    }
    // Segments swapped, repeated, left out, or taken from another message.
    let other = builder().build().unwrap().seal(b"", &sent).unwrap();
    let segment = |bytes: &[u8], i: usize| bytes[body + i * 4116..sealed.len().min(body + (i + 1) * 4116)].to_vec();
    for order in [[0, 2, 1, 3, 4], [0, 1, 1, 2, 4], [0, 1, 3, 4, 4], [0, 1, 2, 4, 4]] {
        let bytes = [sealed[..body].to_vec(), order.map(|i| segment(&sealed, i)).concat()].concat();
        let (got, end) = drain(OpenReader::new(&opener(), &bytes[..]).unwrap(), 4096);
        let good = order.iter().enumerate().take_while(|(i, at)| i == *at).count();
        assert!(end.is_err() && got == sent[..good * 4096]);
    }
    let spliced = [sealed[..body + 4116].to_vec(), segment(&other, 1)].concat();
    let (got, end) = drain(OpenReader::new(&opener(), &spliced[..]).unwrap(), 4096);
    assert!(matches!(cause(end.unwrap_err()), OpenError::Segment { index: 1 }) && got == sent[..4096]);
    // Nothing of the final segment comes before it is known to be the end. Proves SEG-8.
    let trailing = [&sealed[..], b"x"].concat();
    let (got, end) = drain(OpenReader::new(&opener(), &trailing[..]).unwrap(), 4096);
    assert!(matches!(cause(end.unwrap_err()), OpenError::Parse(ParseError::TrailingBytes { .. })) && got == sent[..4 * 4096]);
    let mut many = Cursor::new([&sealed[..], &other[..]].concat());
    for _ in 0..2 {
        let (got, end) = drain(OpenReader::one_of_many(&opener(), &mut many).unwrap(), 4096);
        assert!(end.is_ok() && got == sent);
    }
    assert_eq!(many.position() as usize, sealed.len() + other.len());
}

/// A writer that is dropped leaves something truncated; one that failed says so, and writes no more.
#[test]
fn a_stream_without_its_end_is_truncated() {
    let mut sealer = builder().build().unwrap();
    let mut out = Vec::new();
    let mut writer = SealWriter::new(&mut sealer, b"", &mut out).unwrap();
    writer.write_all(&payload(10_000)).unwrap();
    drop(writer);
    let (got, end) = drain(OpenReader::new(&opener(), &out[..]).unwrap(), 4096);
    assert!(got == payload(8192) && end.unwrap_err().kind() == io::ErrorKind::UnexpectedEof);

    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(data.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut writer = SealWriter::new(&mut sealer, b"", Full(5000)).unwrap();
    assert_eq!(writer.write_all(&payload(20_000)).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(writer.write_all(b"x").is_err());
    assert!(matches!(writer.finish(), Err(StreamError::Seal(SealError::Failed))));
}

/// Any range is what it is in the payload, wherever the reader stood; padded, signed and not.
#[test]
fn ranges_are_those_of_the_payload() {
    let mut rng = TestRng::new(9);
    for len in SIZES {
        for (pad, signed) in [(false, false), (true, false), (true, true)] {
            let builder = builder().pad(pad);
            let builder = if signed { builder.sign_messages_with(SenderKey::from_ed25519(&ALICE)) } else { builder };
            let sealed = builder.build().unwrap().seal(b"", &payload(len)).unwrap();
            // Something stands before the message in the input.
            let mut input = Cursor::new([b"before".to_vec(), sealed].concat());
            input.set_position(6);
            let mut reader = OpenReader::new(&opener(), input).unwrap();
            assert_eq!(reader.payload_len().unwrap(), len as u64);
            for _ in 0..20 {
                let at = rng.below(len + 10);
                let place = match rng.below(3) {
                    0 => SeekFrom::Start(at as u64),
                    1 => SeekFrom::End(at as i64 - len as i64),
                    _ => SeekFrom::Current(at as i64 - reader.stream_position().unwrap() as i64),
                };
                assert_eq!(reader.seek(place).unwrap(), at as u64);
                let mut got = vec![0; rng.below(9000)];
                let n = reader.by_ref().take(got.len() as u64).read(&mut got).unwrap();
                let wanted = &payload(len)[at.min(len)..];
                assert!(got[..n] == wanted[..n] && (n > 0 || wanted.is_empty() || got.is_empty()), "{len} at {at}: {n}");
            }
            assert_eq!(reader.seek(SeekFrom::End(-1 - len as i64)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(reader.rewind().map(|()| drain(reader, 777).0).unwrap(), payload(len));
        }
    }
}

/// A long message, of which a segment is made when it is asked for; and how much was read of it.
struct Vast {
    payload: u64,
    forge: Forge,
    front: Vec<u8>,
    position: u64,
    segment: (u64, Vec<u8>),
    read: Rc<Cell<u64>>,
}

impl Vast {
    const LOG2: u8 = 16;
    const LEN: u64 = (10 << 30) + 4321;
    const STEP: u64 = (1 << Self::LOG2) + 20;

    fn new(read: Rc<Cell<u64>>) -> Self {
        Self::of(1, Self::LEN, read)
    }

    fn of(suite: u8, payload: u64, read: Rc<Cell<u64>>) -> Self {
        let forge = Forge { segment_log2: Self::LOG2, ..Forge::under(suite, &[key()]) };
        let front = forge.envelope(0, 0, b"", b"");
        let front = front[..front.len() - 20].to_vec();
        Self { payload, forge, front, position: 0, segment: (u64::MAX, Vec::new()), read }
    }

    fn byte(at: u64) -> u8 {
        (at ^ (at >> 16) ^ (at >> 32)) as u8
    }

    fn segments(&self) -> u64 {
        self.payload.div_ceil(1 << Self::LOG2)
    }

    fn len(&self) -> u64 {
        self.front.len() as u64 + self.payload + 20 * self.segments()
    }

    fn make(&mut self, index: u64) {
        let range = (index << Self::LOG2)..((index + 1) << Self::LOG2).min(self.payload);
        let plaintext: Vec<u8> = range.map(Self::byte).collect();
        let last = index + 1 == self.segments();
        let aad = if index == 0 { &self.front[self.front.len() - 12..] } else { b"" };
        self.segment = (index, self.forge.segment(0, index as u32, last, aad, &plaintext));
    }
}

impl Read for Vast {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let front = self.front.len() as u64;
        let mut rest = match self.position.checked_sub(front) {
            None => &self.front[self.position as usize..],
            Some(at) if at / Self::STEP < self.segments() => {
                if self.segment.0 != at / Self::STEP {
                    self.make(at / Self::STEP);
                }
                self.segment.1.get((at % Self::STEP) as usize..).unwrap_or_default()
            }
            Some(_) => &[],
        };
        let n = rest.read(out)?;
        self.position += n as u64;
        self.read.set(self.read.get() + n as u64);
        Ok(n)
    }
}

impl Seek for Vast {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(by) => self.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// A small range of a large payload costs the first segment and its own, or the two that it is in; the final one too, where a length is
/// asked for. Proves SEG-9.
#[test]
fn a_range_of_ten_gibibytes_reads_three_segments() {
    let (read, mut rng) = (Rc::new(Cell::new(0)), TestRng::new(21));
    let wanted = |at: u64| (at..at + 4096).map(Vast::byte).collect::<Vec<_>>();
    let mut got = vec![0; 4096];
    let boundary = (1u64 << 33) - 2048;
    for round in 0..20 {
        let at = if round == 0 { boundary } else { rng.below((Vast::LEN - 4096) as usize) as u64 };
        read.set(0);
        let mut reader = OpenReader::new(&opener(), Vast::new(read.clone())).unwrap();
        assert!(read.get() <= 165 + Vast::STEP, "only the first segment");
        assert_eq!(reader.seek(SeekFrom::Start(at)).unwrap(), at);
        reader.read_exact(&mut got).unwrap();
        assert!(got == wanted(at));
        assert!(read.get() <= 165 + 3 * Vast::STEP, "{at}: {}", read.get());
        // Another place costs what it is in.
        read.set(0);
        reader.seek(SeekFrom::Current(-(at as i64) + 100 - 4096)).unwrap();
        reader.read_exact(&mut got).unwrap();
        assert!(got == wanted(100) && read.get() <= Vast::STEP);
        // From its end: the final segment is open then, and read once more.
        read.set(0);
        assert_eq!(reader.seek(SeekFrom::End(-4096)).unwrap(), Vast::LEN - 4096);
        reader.read_exact(&mut got).unwrap();
        assert!(got == wanted(Vast::LEN - 4096) && read.get() <= 2 * Vast::STEP);
        assert_eq!((reader.read(&mut got).unwrap(), reader.payload_len().unwrap()), (0, Vast::LEN));
    }
    // Behind the end there is nothing, whether it is in the last segment or far away.
    for beyond in [Vast::LEN, Vast::LEN + 1, Vast::LEN + (1 << 16), 1 << 40, u64::MAX] {
        let mut reader = OpenReader::new(&opener(), Vast::new(read.clone())).unwrap();
        assert_eq!(reader.seek(SeekFrom::Start(beyond)).unwrap(), beyond);
        assert_eq!((reader.read(&mut got).unwrap(), reader.stream_position().unwrap()), (0, beyond));
        reader.seek(SeekFrom::Start(0)).unwrap();
        reader.read_exact(&mut got).unwrap();
        assert!(got == wanted(0));
    }
}

/// What is cut off, or put on, is noticed by who asks for the end. Proves SEG-10.
#[test]
fn a_range_reader_notices_a_wrong_end() {
    let sealed = builder().build().unwrap().seal(b"", &payload(10_000)).unwrap();
    let body = 153 + 12;
    for cut in [1, 1828, 1829, 1840, 1848, 4000, 4116 + 1828] {
        let Ok(mut reader) = OpenReader::new(&opener(), Cursor::new(&sealed[..sealed.len() - cut])) else { panic!("{cut}") };
        assert!(reader.seek(SeekFrom::End(0)).is_err(), "{cut}");
        assert!(reader.read(&mut [0; 10]).is_err(), "it stays failed");
    }
    for more in [1, 20, 4116] {
        let bytes = [&sealed[..], &vec![7; more]].concat();
        let mut reader = OpenReader::new(&opener(), Cursor::new(bytes)).unwrap();
        assert!(reader.seek(SeekFrom::End(0)).is_err(), "{more}");
    }
    // A padded message whose length is not what its padding says.
    let forge = Forge { segment_log2: 12, ..Forge::to(&[key()]) };
    let lies = forge.envelope(0, 2, b"", &pad(&payload(100), 5000));
    let mut reader = OpenReader::new(&opener(), Cursor::new(&lies)).unwrap();
    assert!(matches!(cause(reader.seek(SeekFrom::Start(3)).unwrap_err()), OpenError::Content(_)));
    let (got, end) = drain(OpenReader::new(&opener(), &lies[..]).unwrap(), 10);
    assert!(matches!(cause(end.unwrap_err()), OpenError::Content(_)) && payload(100).starts_with(&got));
    assert!(body < sealed.len());
}

/// Bytes that another reader of the DEK can change while they are read.
struct Shared(Rc<std::cell::RefCell<Vec<u8>>>, u64);

impl Read for Shared {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.borrow();
        let mut rest = bytes.get(self.1 as usize..).unwrap_or_default();
        let n = rest.read(out)?;
        self.1 += n as u64;
        Ok(n)
    }
}

impl Seek for Shared {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let len = self.0.borrow().len() as u64;
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(by) => len.checked_add_signed(by),
            SeekFrom::Current(by) => self.1.checked_add_signed(by),
        };
        self.1 = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.1)
    }
}

/// A proof that covers the message is verified before anything is given, and holds for what is read later. Proves PRF-8.
#[test]
fn a_signed_message_is_what_it_was_when_it_was_verified() {
    let forge = Forge { segment_log2: 12, ..Forge::to(&[key()]) }.signed_message(&ALICE, b"", &payload(20_000));
    let genuine = forge.envelope(0, 0, b"", &payload(20_000));
    let listed = Policy { senders: Some(Senders::new([*SenderKey::from_ed25519(&ALICE).verifying_key()])), ..Policy::default() };
    let opener = Opener::builder(Keyring::from(cmk())).policy(listed).build();
    let mut forged = genuine.clone();
    let body = genuine.len() - 20_000 - 5 * 20;
    let other = forge.segment(0, 3, false, b"", &[7; 4096]);
    forged[body + 3 * 4116..body + 4 * 4116].copy_from_slice(&other);
    // From end to end the lie is found at the end, and the sender is not named before.
    let mut reader = OpenReader::new(&opener, &forged[..]).unwrap();
    assert_eq!(reader.sender(), None);
    let (got, end) = drain(&mut reader, 4096);
    assert!(matches!(cause(end.unwrap_err()), OpenError::Proof) && got.len() == 4 * 4096 && reader.sender().is_none());
    // Verified first, nothing comes out at all.
    assert!(matches!(OpenReader::verified(&opener, Cursor::new(&forged)), Err(StreamError::Open(OpenError::Proof))));
    let mut reader = OpenReader::new(&opener, Cursor::new(&forged)).unwrap();
    assert!(matches!(cause(reader.seek(SeekFrom::Start(0)).unwrap_err()), OpenError::Proof));
    // Changed after the check by who has the DEK: the tag holds, and the hash does not.
    let shared = Rc::new(std::cell::RefCell::new(genuine.clone()));
    let mut reader = OpenReader::verified(&opener, Shared(shared.clone(), 0)).unwrap();
    assert_eq!(reader.sender().unwrap().standing(), Standing::Signed);
    assert!(drain(&mut reader, 4096).0 == payload(20_000));
    *shared.borrow_mut() = forged;
    reader.seek(SeekFrom::Start(100)).unwrap();
    let (got, end) = drain(&mut reader, 4096);
    assert!(matches!(cause(end.unwrap_err()), OpenError::Segment { index: 3 }) && got == payload(20_000)[100..3 * 4096]);
    // To an output that cannot go back such a message is not written.
    let mut sealer = builder().sign_messages_with(SenderKey::from_ed25519(&ALICE)).build().unwrap();
    assert!(matches!(SealWriter::new(&mut sealer, b"", Vec::new()), Err(StreamError::Seal(SealError::SignatureNeedsSeek))));
}

/// Proves LIM-5, CHN-2, USE-5: limits, channels and policies, before anything is decrypted.
#[test]
fn what_is_not_wanted_is_not_read() {
    let begin = |opener: &Opener, bytes: &[u8]| OpenReader::new(opener, bytes).map(|_| ()).map_err(|error| error.to_string());
    let large = Forge { segment_log2: 21, ..Forge::to(&[key()]) }.envelope(0, 0, b"", b"x");
    assert!(begin(&opener(), &large).unwrap_err().contains("segment is 2097152, more than the limit of 1048576"));
    let limits = Limits { segment: 1 << 21, ..Limits::default() };
    let wide = Opener::builder(Keyring::from(cmk())).policy(Policy { limits, ..Policy::default() }).build();
    assert_eq!(begin(&wide, &large), Ok(()));
    let channel = Forge::to(&[key()]).envelope(0, 8, b"", b"x");
    assert!(begin(&opener(), &channel).unwrap_err().contains("opens only in its channel"));
    let other = Policy { context: Some(b"orders".to_vec().into()), ..Policy::default() };
    let other = Opener::builder(Keyring::from(cmk())).policy(other).build();
    let mut plain = Forge::to(&[key()]).envelope(0, 0, b"", b"x");
    *plain.last_mut().unwrap() ^= 1;
    assert!(begin(&other, &plain).unwrap_err().contains("context"));
    assert!(begin(&opener(), &plain).unwrap_err().contains("segment 0"));
    assert!(begin(&Opener::new(Keyring::new()), &plain).unwrap_err().contains("no matching key"));
}

/// Every stream has a DEK of its own, and leaves the one that the sealer reuses alone.
#[test]
fn a_stream_has_its_own_dek() {
    let mut sealer = builder().reuse(Reuse::default()).build().unwrap();
    let first = sealer.seal(b"", b"one").unwrap();
    let streams: Vec<_> = (0..2).map(|_| SealWriter::new(&mut sealer, b"", Vec::new()).unwrap().finish().unwrap()).collect();
    let second = sealer.seal(b"", b"two").unwrap();
    assert_eq!((&first[21..37], &second[153..161]), (&second[21..37], &1u64.to_be_bytes()[..]));
    assert!(streams[0][21..37] != streams[1][21..37] && streams.iter().all(|stream| stream[21..37] != first[21..37]));
    assert!(streams.iter().all(|stream| open(stream, &Keyring::from(cmk())).unwrap().payload.is_empty()));
}

/// A stream is in the window once it is committed, and that is after all of it was read: an end that a range reader has looked at
/// says nothing of the middle. Proves RPL-2, RPL-5.
#[test]
fn a_stream_counts_once_all_of_it_was_read() {
    let policy = Policy { max_age: Some(Duration::from_secs(3600)), replay: Some(ReplayWindow::new(1)), ..Policy::default() };
    let opener = Opener::builder(Keyring::from(cmk())).policy(policy).build();
    let sealed = builder().build().unwrap().seal(b"", &payload(20_000)).unwrap();
    // A damaged copy comes first, and a range of it is read.
    let mut damaged = sealed.clone();
    damaged[153 + 12 + 2 * 4116 + 100] ^= 1;
    let mut reader = OpenReader::new(&opener, Cursor::new(&damaged)).unwrap();
    assert_eq!(reader.payload_len().unwrap(), 20_000);
    reader.seek(SeekFrom::End(-10)).unwrap();
    assert_eq!(drain(&mut reader, 100).0, payload(20_000)[19_990..]);
    assert!(matches!(reader.commit(), Err(OpenError::Failed)), "its middle has not been read");
    reader.rewind().unwrap();
    assert!(drain(&mut reader, 4096).1.is_err() && matches!(reader.commit(), Err(OpenError::Failed)));
    let mut reader = OpenReader::new(&opener, &sealed[..]).unwrap();
    assert!(matches!(reader.commit(), Err(OpenError::Failed)), "its end has not come");
    assert!(drain(&mut reader, 4096).1.is_ok());
    // In hand: neither delivered again nor called a duplicate.
    assert!(matches!(OpenReader::new(&opener, &sealed[..]), Err(StreamError::Open(OpenError::InHand))));
    drop(reader);
    // Read through after a look at the end it is whole too.
    let mut reader = OpenReader::new(&opener, Cursor::new(&sealed)).unwrap();
    reader.payload_len().unwrap();
    assert!(drain(&mut reader, 4096).1.is_ok());
    reader.commit().unwrap();
    reader.commit().unwrap();
    drop(reader);
    assert!(matches!(OpenReader::new(&opener, &sealed[..]), Err(StreamError::Open(OpenError::Duplicate))));
    assert!(matches!(opener.open(&sealed), Err(OpenError::Duplicate)));
    let other = builder().build().unwrap().seal(b"", &payload(10_000)).unwrap();
    let full = OpenReader::new(&opener, &other[..]).map(|_| ());
    assert!(matches!(full, Err(StreamError::Open(OpenError::Policy(PolicyError::WindowFull { capacity: 1 })))));
}

/// A file that appends cannot have its proof written at the front, and says so; a message among others has no length yet.
#[test]
fn what_cannot_go_back_says_so() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("log");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    let mut sealer = builder().sign_messages_with(SenderKey::from_ed25519(&ALICE)).build().unwrap();
    let mut writer = SealWriter::seekable(&mut sealer, b"", file).unwrap();
    writer.write_all(b"payload").unwrap();
    assert!(writer.finish().is_err());
    let sealed = builder().build().unwrap().seal(b"", &payload(10_000)).unwrap();
    let mut reader = OpenReader::one_of_many(&opener(), Cursor::new([&sealed[..], &sealed[..]].concat())).unwrap();
    assert!(matches!(reader.payload_len(), Err(StreamError::Io(error)) if error.kind() == io::ErrorKind::Unsupported));
    assert!(drain(&mut reader, 4096).0 == payload(10_000), "and it can still be read");
}

/// A writer on several threads gives the bytes that one gives; a reader on several gives what one gives, in whole, in part, and up to
/// where something is wrong. Proves SEG-6.
#[test]
fn on_several_threads_nothing_is_different() {
    let sent = payload(3 << 20);
    let settings = || {
        let mut fills = [vec![0xd1; 32], vec![0x5a; 16], kit::EPHEMERAL.to_vec()].into_iter();
        let clock = Arc::new(std::sync::atomic::AtomicU64::new(1_700_000_000));
        builder().testing_entropy(move |out: &mut [u8]| out.copy_from_slice(&fills.next().unwrap())).testing_clock(clock)
    };
    let limits = Limits { message: 4 << 20, ..Limits::default() };
    for (pad, signed) in [(false, false), (true, false), (true, true)] {
        let settings = || {
            let settings = settings().pad(pad).limits(limits.clone());
            let settings = if signed { settings.sign_messages_with(SenderKey::from_ed25519(&ALICE)) } else { settings };
            settings.build().unwrap()
        };
        let whole = settings().seal(b"", &sent).unwrap();
        for (threads, piece) in [(1, 1 << 20), (2, 4097), (3, 777), (4, usize::MAX)] {
            let writer = SealWriter::seekable(&mut settings(), b"", Cursor::new(Vec::new())).unwrap();
            let mut writer = writer.threads(threads);
            for piece in sent.chunks(piece.min(sent.len())) {
                writer.write_all(piece).unwrap();
            }
            assert!(writer.finish().unwrap().into_inner() == whole, "{threads} threads, padded {pad}, signed {signed}");
            let reader = OpenReader::new(&opener(), &whole[..]).unwrap().threads(threads);
            let (got, end) = drain(reader, 10_000);
            assert!(end.is_ok() && got == sent, "{threads} threads, padded {pad}, signed {signed}");
        }
        let mut reader = OpenReader::new(&opener(), Cursor::new(&whole)).unwrap().threads(3);
        let mut rng = TestRng::new(3);
        for _ in 0..30 {
            let at = rng.below(sent.len());
            reader.seek(SeekFrom::Start(at as u64)).unwrap();
            let mut got = vec![0; rng.below((sent.len() - at).min(1 << 20))];
            reader.read_exact(&mut got).unwrap();
            assert!(got == sent[at..at + got.len()]);
        }
    }
    let sealed = settings().build().unwrap().seal(b"", &sent).unwrap();
    for segment in [300, 600, 767] {
        let mut changed = sealed.clone();
        changed[165 + segment * 4116 + 7] ^= 1;
        for (bytes, good) in [(&changed[..], segment), (&sealed[..165 + segment * 4116 + 100], segment)] {
            let (got, end) = drain(OpenReader::new(&opener(), bytes).unwrap().threads(3), 50_000);
            assert!(end.is_err() && got == sent[..good * 4096], "{segment}");
        }
    }
    let trailing = [&sealed[..], b"x"].concat();
    let (got, end) = drain(OpenReader::new(&opener(), &trailing[..]).unwrap().threads(3), 50_000);
    assert!(matches!(cause(end.unwrap_err()), OpenError::Parse(ParseError::TrailingBytes { .. })) && got == sent[..767 * 4096]);
    // What is dropped in the middle is over.
    let mut writer = SealWriter::new(&mut settings().build().unwrap(), b"", Vec::new()).unwrap().threads(4);
    writer.write_all(&sent).unwrap();
    drop(writer);
    let mut reader = OpenReader::new(&opener(), &sealed[..]).unwrap().threads(4);
    reader.read_exact(&mut vec![0; 2 << 20]).unwrap();
}

/// A block kept apart and its message are one message: whichever way it is put together, and for nothing else. Proves DET-1, DET-2.
#[test]
fn a_block_and_its_message_may_be_kept_apart() {
    for signed in [false, true] {
        let settings = if signed { builder().sign_messages_with(SenderKey::from_ed25519(&ALICE)) } else { builder() };
        let mut sealer = settings.build().unwrap();
        let mut writer = DetachedWriter::new(&mut sealer, b"ctx", Vec::new()).unwrap().threads(2);
        writer.write_all(&payload(10_000)).unwrap();
        let (message, block) = writer.finish().unwrap();
        let joined = [&block[..], &message].concat();
        assert_eq!(open(&joined, &Keyring::from(cmk())).unwrap().payload, payload(10_000));
        assert_eq!(opener().open_detached(&block, &message).unwrap().payload, payload(10_000));
        let mut reader = OpenReader::detached(&opener(), &block, Cursor::new(&message)).unwrap();
        reader.seek(SeekFrom::Start(9000)).unwrap();
        assert_eq!(drain(&mut reader, 100).0, payload(10_000)[9000..]);
        let Sealed { block: own, message: record, .. } = sealer.seal_detached(b"", b"a record").unwrap();
        assert_eq!(record.len(), 32 + 8);
        assert_eq!(opener().open_detached(&own, &record).unwrap().payload, b"a record"[..]);
        for (block, message) in
            [(&block, &record), (&own.to_vec(), &message), (&joined, &message), (&block[..99].to_vec(), &message)]
        {
            assert!(opener().open_detached(block, message).is_err());
            assert!(OpenReader::detached(&opener(), block, &message[..]).map_or(true, |reader| drain(reader, 5000).1.is_err()));
        }
    }
}

/// Many records name a few blocks: one for each life of a sealer. A rewrapped block keeps its name, and opens what it opened. Proves DET-3.
#[test]
fn records_share_a_block() {
    let mut sealer = builder().reuse(Reuse { messages: 3, ..Reuse::default() }).build().unwrap();
    let mut blocks = std::collections::HashMap::new();
    let mut table = Vec::new();
    for n in 0..7u8 {
        let Sealed { name, block, message } = sealer.seal_detached(&[n], &[n; 50]).unwrap();
        assert_eq!(message.len(), 50 + 32 + 1);
        assert_eq!(*blocks.entry(name).or_insert_with(|| block.clone()), block);
        table.push((name, message));
    }
    assert_eq!(blocks.len(), 3);
    let (bob, opener) = (Cmk::from_x25519(&[2; 32]), opener());
    for block in blocks.values_mut() {
        *block = Rewrap::new().to(bob.recipient().clone()).block(block, &Keyring::from(cmk())).unwrap().into();
    }
    for (n, (name, message)) in table.iter().enumerate() {
        assert_eq!(block_name(&blocks[name]), Some(*name));
        assert_eq!(DekBlock::parse_alone(&blocks[name], &Limits::default()).unwrap().salt, name);
        let opened = opener.open_detached(&blocks[name], message).unwrap();
        assert!(opened.payload[..] == [n as u8; 50] && opened.context[..] == [n as u8] && opened.seq == n as u64 % 3);
        let other = blocks.values().find(|block| block_name(block) != Some(*name)).unwrap();
        assert!(opener.open_detached(other, message).is_err());
    }
    // The window against replays sees them as what they are.
    let policy = Policy { replay: Some(ReplayWindow::new(10)), max_age: Some(Duration::from_secs(3600)), ..Policy::default() };
    let once = Opener::builder(Keyring::from(cmk())).policy(policy).build();
    once.open_detached(&blocks[&table[0].0], &table[0].1).unwrap().commit();
    let joined = [&blocks[&table[0].0][..], &table[0].1].concat();
    assert!(matches!(once.open(&joined), Err(OpenError::Duplicate)));
}

#[cfg(feature = "codec")]
mod asynchronous {
    use super::*;
    use sealwire::stream::{AsyncOpenReader, AsyncSealWriter};
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, ready},
    };
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt, AsyncWrite, AsyncWriteExt, ReadBuf};

    /// Does a few bytes at a time, and says "not yet" every other time.
    struct Fitful<T> {
        inner: T,
        most: usize,
        turn: bool,
    }

    impl<T> Fitful<T> {
        fn new(inner: T, most: usize) -> Self {
            Self { inner, most, turn: false }
        }

        fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
            self.turn = !self.turn;
            if self.turn {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        }
    }

    impl<T: Read + Unpin> AsyncRead for Fitful<T> {
        fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            ready!(self.poll_turn(context));
            let mut bytes = vec![0; out.remaining().min(self.most)];
            let n = self.inner.read(&mut bytes)?;
            out.put_slice(&bytes[..n]);
            Poll::Ready(Ok(()))
        }
    }

    impl<T: Seek + Unpin> AsyncSeek for Fitful<T> {
        fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
            self.inner.seek(to).map(|_| ())
        }

        fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
            ready!(self.poll_turn(context));
            Poll::Ready(self.inner.stream_position())
        }
    }

    impl<T: Write + Unpin> AsyncWrite for Fitful<T> {
        fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            ready!(self.poll_turn(context));
            let n = data.len().min(self.most);
            Poll::Ready(self.inner.write(&data[..n]))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn drain_all<R: AsyncRead + Unpin>(mut reader: AsyncOpenReader<R>) -> (Vec<u8>, io::Result<()>) {
        let mut got = Vec::new();
        let end = reader.read_to_end(&mut got).await.map(|_| ());
        if end.is_err() {
            assert!(reader.read(&mut [0; 10]).await.is_err(), "it stays failed");
        }
        (got, end)
    }

    /// They write and read the same messages as the others, in whatever pieces, and release the same prefix.
    #[tokio::test]
    async fn they_are_the_same_messages() {
        for (len, pad, most) in [(0, false, 1), (0, true, 3), (5000, false, 1), (20_000, true, 7), (20_000, false, 100_000)] {
            let mut sealer = builder().pad(pad).build().unwrap();
            let mut writer = AsyncSealWriter::new(&mut sealer, b"ctx", Fitful::new(Vec::new(), most)).unwrap();
            for piece in payload(len).chunks(most * 100) {
                writer.write_all(piece).await.unwrap();
            }
            let sealed = writer.finish().await.unwrap().inner;
            assert_eq!(open(&sealed, &Keyring::from(cmk())).unwrap().payload, payload(len));
            let reader = AsyncOpenReader::new(&opener(), Fitful::new(&sealed[..], most)).await.unwrap();
            assert_eq!(&reader.context()[..], b"ctx");
            let (got, end) = drain_all(reader).await;
            assert!(end.is_ok() && got == payload(len), "{len}, padded {pad}, by {most}");
            for cut in (0..sealed.len()).step_by(511) {
                match AsyncOpenReader::new(&opener(), Fitful::new(&sealed[..cut], most)).await {
                    Ok(reader) if !pad => {
                        let (got, end) = drain_all(reader).await;
                        assert!(got == payload(len)[..(cut - 168) / 4116 * 4096]);
                        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
                    }
                    Ok(reader) => assert!(drain_all(reader).await.1.is_err()),
                    Err(error) => assert!(matches!(error, StreamError::Open(OpenError::Parse(ParseError::Truncated { .. })))),
                }
            }
        }
    }

    #[tokio::test]
    async fn they_go_to_any_place() {
        let mut rng = TestRng::new(11);
        for (len, pad, signed) in [(20_000, false, false), (20_000, true, false), (8192, true, true)] {
            let builder = builder().pad(pad);
            let builder = if signed { builder.sign_messages_with(SenderKey::from_ed25519(&ALICE)) } else { builder };
            let sealed = builder.build().unwrap().seal(b"", &payload(len)).unwrap();
            let input = Fitful::new(Cursor::new(&sealed), 1000);
            let mut reader = AsyncOpenReader::verified(&opener(), input).await.unwrap();
            assert_eq!(reader.sender().is_some_and(|sender| sender.standing() == Standing::Signed), signed);
            assert_eq!(reader.payload_len().await.unwrap(), len as u64);
            for _ in 0..20 {
                let at = rng.below(len + 5);
                assert_eq!(reader.seek(SeekFrom::Start(at as u64)).await.unwrap(), at as u64);
                let mut got = vec![0; rng.below(5000)];
                let n = reader.read(&mut got).await.unwrap();
                let wanted = &payload(len)[at.min(len)..];
                assert!(got[..n] == wanted[..n] && (n > 0 || wanted.is_empty() || got.is_empty()));
            }
            assert_eq!(reader.seek(SeekFrom::End(-1 - len as i64)).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
            reader.rewind().await.unwrap();
            assert!(drain_all(reader).await.0 == payload(len));
        }
    }

    /// A future that is dropped loses, repeats and tears nothing.
    #[tokio::test]
    async fn a_call_that_is_given_up_loses_nothing() {
        let mut sealer = builder().build().unwrap();
        let mut writer = AsyncSealWriter::new(&mut sealer, b"", Fitful::new(Vec::new(), 100)).unwrap();
        let (sent, mut rng) = (payload(30_000), TestRng::new(5));
        let mut at = 0;
        while at < sent.len() {
            let end = (at + rng.below(6000) + 1).min(sent.len());
            // `write` is given up where it is not ready at once.
            let given_up = {
                let mut write = pin!(writer.write(&sent[at..end]));
                match futures_util::poll!(write.as_mut()) {
                    Poll::Ready(written) => {
                        at += written.unwrap();
                        false
                    }
                    Poll::Pending => true,
                }
            };
            if given_up && rng.below(2) == 0 {
                let _ = futures_util::poll!(pin!(writer.flush()));
            }
        }
        let sealed = writer.finish().await.unwrap().inner;
        let mut reader = AsyncOpenReader::new(&opener(), Fitful::new(Cursor::new(&sealed), 300)).await.unwrap();
        let mut got = Vec::new();
        loop {
            let mut buffer = vec![0; rng.below(3000) + 1];
            match futures_util::poll!(pin!(reader.read(&mut buffer))) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(n) => got.extend_from_slice(&buffer[..n.unwrap()]),
                Poll::Pending => {}
            }
        }
        assert!(got == sent);
        // A seek that was begun is gone on with, and nothing is read in its middle.
        Pin::new(&mut reader).start_seek(SeekFrom::Start(12_345)).unwrap();
        assert!(reader.read(&mut [0; 10]).await.is_err());
        let place = loop {
            if let Poll::Ready(place) =
                futures_util::poll!(pin!(std::future::poll_fn(|cx| Pin::new(&mut reader).poll_complete(cx))))
            {
                break place.unwrap();
            }
        };
        assert_eq!(place, 12_345);
        assert!(drain_all(reader).await.0 == sent[12_345..]);
    }

    /// One message, larger than any that is opened at once, over a socket.
    #[tokio::test]
    async fn over_a_socket_a_message_has_any_size() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sending = tokio::spawn(async move {
            let mut sealer = Sealer::builder().to(cmk().recipient().clone()).build().unwrap();
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut writer = AsyncSealWriter::new(&mut sealer, b"", stream).unwrap();
            for n in 0..40u8 {
                writer.write_all(&vec![n; 1 << 20]).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        });
        let (stream, _) = listener.accept().await.unwrap();
        let mut reader = AsyncOpenReader::new(&opener(), stream).await.unwrap();
        for n in 0..40u8 {
            let mut piece = vec![0; 1 << 20];
            reader.read_exact(&mut piece).await.unwrap();
            assert!(piece == vec![n; 1 << 20]);
        }
        assert_eq!(reader.read(&mut [0; 1]).await.unwrap(), 0);
        sending.await.unwrap();
    }
}

/// A reader takes suite 2 to its last byte and no further, wherever it begins. Proves SEG-11.
#[test]
fn a_message_of_suite_2_ends() {
    const MOST: u64 = 1 << 38;
    let vast = |payload| OpenReader::new(&opener(), Vast::of(2, payload, Rc::default())).unwrap();
    let mut got = vec![0; 4096];
    let mut whole = vast(MOST);
    assert_eq!(whole.seek(SeekFrom::End(-4096)).unwrap(), MOST - 4096);
    whole.read_exact(&mut got).unwrap();
    assert!(got == (MOST - 4096..MOST).map(Vast::byte).collect::<Vec<_>>());
    let refused = |result: io::Result<()>| {
        let error = StreamError::of(result.unwrap_err());
        let StreamError::Open(OpenError::Parse(ParseError::LimitExceeded(over))) = error else { panic!("{error:?}") };
        assert_eq!((over.limit, over.maximum), ("message", MOST));
    };
    refused(vast(MOST + 1).seek(SeekFrom::End(-4096)).map(|_| ()));
    refused(vast(MOST + 4096).seek(SeekFrom::Start(MOST)).map(|_| ()));
    whole.seek(SeekFrom::Start(MOST)).unwrap();
    assert_eq!(whole.read(&mut got).unwrap(), 0);
    // Before there the tags say nothing of what follows, and the part is what was sealed.
    let mut before = vast(MOST + 1);
    before.seek(SeekFrom::Start(MOST - 4096)).unwrap();
    before.read_exact(&mut got).unwrap();
}
