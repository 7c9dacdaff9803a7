//! Who has written, and who may (spec 6.5, 6.6, 10.3): the proofs that we write, what they are worth, and what is refused.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use kit::{Forge, TestRng, channel, verifying_key};
use sealwire::{
    Begun, ChannelOpener, ChannelSealer, Cmk, DecapsulateError, Decapsulator, Dek, ExpectedContext, Keyring, OpenError, Opened,
    Opener, ParseError, Policy, PolicyError, Recipient, Reuse, Role, SealError, Sealer, SealerBuilder, Sender, SenderKey,
    Senders, SharedSecret, Standing, VerifyingKey,
};

mod kit;

const ALICE: [u8; 32] = [0xa1; 32];
const BOB: [u8; 32] = [0xb0; 32];

fn cmk(i: u8) -> Cmk {
    Cmk::from_x25519(&[i; 32])
}

fn recipient(i: u8) -> Recipient {
    cmk(i).recipient().clone()
}

fn sender(seed: &[u8; 32]) -> SenderKey {
    SenderKey::from_ed25519(seed)
}

fn name(seed: &[u8; 32]) -> VerifyingKey {
    *sender(seed).verifying_key()
}

fn opener(i: u8) -> Opener {
    Opener::new(Keyring::from(cmk(i)))
}

fn only(i: u8, senders: Senders) -> Opener {
    let policy = Policy { senders: Some(senders), ..Policy::default() };
    Opener::builder(Keyring::from(cmk(i))).policy(policy).build()
}

fn to(readers: &[u8]) -> SealerBuilder {
    Sealer::builder().to_all(readers.iter().map(|i| recipient(*i)))
}

/// The same bytes as the kit's writer, which shares no code with ours. Proves PRF-1, PRF-3.
#[test]
fn our_proofs_are_those_of_the_second_writer() {
    let entropy = || {
        let mut fills = [vec![0xd1; 32], vec![0x5a; 16], kit::EPHEMERAL.to_vec()].into_iter();
        move |out: &mut [u8]| out.copy_from_slice(&fills.next().unwrap())
    };
    let clock = Arc::new(AtomicU64::new(1_700_000_000));
    let base = || to(&[1]).testing_entropy(entropy()).testing_clock(clock.clone());
    let forge = || Forge::to(&[*recipient(1).as_x25519().unwrap()]);

    let ours = base().sign_with(sender(&ALICE)).build().unwrap().seal(b"ctx", b"payload").unwrap();
    assert_eq!(ours, forge().signed(&ALICE, b"").envelope(0, 0, b"ctx", b"payload"));

    let theirs = forge().signed_message(&ALICE, b"ctx", b"payload").envelope(0, 0, b"ctx", b"payload");
    assert_eq!(base().sign_messages_with(sender(&ALICE)).build().unwrap().seal(b"ctx", b"payload").unwrap(), theirs);
    let mut buffer = BytesMut::from(&b"payload"[..]);
    base().sign_messages_with(sender(&ALICE)).build().unwrap().seal_in_place(b"ctx", &mut buffer).unwrap();
    assert_eq!(buffer, theirs);

    let bound = || base().binding(*b"bound").sign_messages_with(sender(&ALICE)).build().unwrap();
    let signed = Forge { options: 1 | 0x14, ..forge() };
    let signed = signed.clone().signed(&ALICE, &signed.message_hash(0, b"ctx", b"payload", b"bound"));
    let theirs = signed.envelope_bound(0, 0, b"ctx", b"payload", b"", b"bound");
    assert_eq!(bound().seal(b"ctx", b"payload").unwrap(), theirs);
    let mut buffer = BytesMut::from(&b"payload"[..]);
    bound().seal_in_place(b"ctx", &mut buffer).unwrap();
    assert_eq!(buffer, theirs);

    let sealer = base().sign_with(sender(&ALICE)).build().unwrap();
    let mut out = BytesMut::new();
    ChannelSealer::new(sealer, Role::Acceptor, b"bound").seal_last(b"", b"payload", &mut out).unwrap();
    let theirs = forge().signed(&ALICE, &channel(true, b"bound"));
    assert_eq!(out, theirs.envelope_bound(0, 8 | 16 | 1, b"", b"payload", b"", b"bound"));
}

/// A key is shown by its public half alone.
#[test]
fn keys_are_shown_by_their_public_half() {
    assert_eq!(format!("{:?}", name(&ALICE)), format!("VerifyingKey({})", name(&ALICE)));
    let shown = format!("{:?}", sender(&ALICE));
    assert!(shown.contains(&name(&ALICE).to_string()) && !shown.contains(sender(&ALICE).to_text().as_str()));
}

/// What each kind of proof is worth to each number of readers.
#[test]
fn standings_of_what_we_seal() {
    let key = name(&ALICE);
    for readers in [&[1][..], &[1, 2], &[3, 2, 1]] {
        let alone = readers.len() == 1;
        let dek = to(readers).sign_with(sender(&ALICE)).build().unwrap().seal(b"", b"x").unwrap();
        assert_eq!(opener(1).open(&dek).unwrap().sender, Sender::Dek { key, for_me_alone: alone, rewrapped: false });
        let message = to(readers).sign_messages_with(sender(&ALICE)).build().unwrap().seal(b"", b"x").unwrap();
        let opened = opener(1).open(&message).unwrap();
        assert_eq!(opened.sender, Sender::Signed { key, rewrapped: false });
        assert_eq!(opener(1).open_in_place(BytesMut::from(&message[..])).unwrap(), opened);
    }
    let anonymous = to(&[1]).build().unwrap().seal(b"", b"x").unwrap();
    assert_eq!(opener(1).open(&anonymous).unwrap().sender, Sender::Anonymous);
    let last_word = to(&[1]).sign_messages_with(sender(&BOB)).sign_with(sender(&ALICE));
    let opened = opener(1).open(&last_word.build().unwrap().seal(b"", b"x").unwrap()).unwrap();
    assert_eq!(opened.sender, Sender::Dek { key, for_me_alone: true, rewrapped: false });
    let mut sentences = HashSet::new();
    for name in ["signed", "signed-rewrapped", "verified", "group", "origin", "anonymous"] {
        let standing: Standing = name.parse().unwrap();
        assert_eq!(standing.to_string(), name);
        assert!(sentences.insert(standing.in_words()), "{name} has a sentence of its own");
    }
    assert!("trusted".parse::<Standing>().is_err());
}

/// One signature a block, none a message; and one a message, with a DEK of its own. Proves PRF-4, HEAD-5.
#[test]
fn what_a_signature_covers() {
    let mut per_dek = to(&[1]).sign_with(sender(&ALICE)).build().unwrap();
    let (one, two) = (per_dek.seal(b"", b"one").unwrap(), per_dek.seal(b"", b"two").unwrap());
    assert_eq!(one[..153 + 128], two[..153 + 128], "one block for both");
    assert_eq!(one.len(), 3 + 185 + 128);
    let mut per_message = to(&[1, 2]).sign_messages_with(sender(&ALICE)).build().unwrap();
    let (one, two) = (per_message.seal(b"", b"one").unwrap(), per_message.seal(b"", b"two").unwrap());
    assert_ne!(one[21..37], two[21..37], "a salt, and so a DEK, for each");
    let block = 153 + 52 + 128;
    assert_eq!(two[block..block + 8], [0; 8], "seq 0");
    // A reader of both cannot put the block of one above the other.
    let opener = opener(1);
    let crossed = [&one[..block], &two[block..]].concat();
    assert!(opener.open(&one).is_ok());
    assert!(matches!(opener.open(&crossed), Err(OpenError::Proof)));
    let mut renumbered = one.clone();
    renumbered[block + 7] = 1;
    let at = block as u64;
    let refused = opener.open(&renumbered);
    assert!(matches!(refused, Err(OpenError::Parse(ParseError::Malformed { field: "seq", offset, .. })) if offset == at));
    let forge = Forge::to(&[*recipient(1).as_x25519().unwrap()]).signed_message(&ALICE, b"", b"x");
    let on_channel = drain(ChannelOpener::new(opener.clone(), Role::Acceptor, b""), &forge.envelope(0, 8, b"", b"x")).1;
    let at = 153 + 128 + 9;
    assert!(matches!(on_channel, Err(OpenError::Parse(ParseError::Malformed { field: "flags", offset, .. })) if offset == at));
    // What a co-recipient makes under the DEK that the opener has just used is refused as well: nothing was kept.
    let forge = Forge::to(&[*recipient(1).as_x25519().unwrap()]).signed_message(&ALICE, b"", b"genuine");
    assert!(opener.open(&forge.envelope(0, 0, b"", b"genuine")).is_ok());
    assert!(matches!(opener.open(&forge.envelope(0, 0, b"", b"forged!")), Err(OpenError::Proof)));
}

/// Proves PRF-5: what others may hold is not signed as if they did not.
#[test]
fn a_dek_from_elsewhere_is_signed_only_when_it_is_mine_alone() {
    let build = |dek: Dek| to(&[1]).dek(dek).sign_with(sender(&ALICE)).build();
    assert!(matches!(build(Dek::import(&[7; 32])), Err(SealError::SharedDekSigned)));
    assert!(build(Dek::import(&[7; 32]).mine_alone()).is_ok());
    assert!(build(Dek::generate().unwrap()).is_ok());
    let mut messages = to(&[1]).dek(Dek::import(&[7; 32])).sign_messages_with(sender(&ALICE)).build().unwrap();
    assert!(opener(1).open(&messages.seal(b"", b"x").unwrap()).is_ok());
}

/// Proves PRF-4: the DEK of a message that is signed by itself is not kept, while one that is signed for its messages is.
#[test]
fn the_dek_of_a_signed_message_is_asked_for_each_time() {
    for alone in [false, true] {
        let (service, keyring) = (Service::new(cmk(1)), Keyring::new());
        keyring.add_decapsulator(if alone { Arc::new(Token(service.clone())) } else { service.clone() });
        let opener = Opener::new(keyring);
        let forge = || Forge::to(&[*recipient(1).as_x25519().unwrap()]);
        for (signed, asked) in [(forge().signed_message(&ALICE, b"", b"x"), 3), (forge().signed(&ALICE, b""), 1)] {
            service.asked.store(0, Ordering::SeqCst);
            (0..3).for_each(|_| assert!(opener.open(&signed.envelope(0, 0, b"", b"x")).is_ok()));
            assert_eq!(service.asked.load(Ordering::SeqCst), asked);
        }
    }
}

/// A key that is held elsewhere, and how often it was asked.
struct Service {
    cmk: Cmk,
    asked: AtomicUsize,
}

impl Service {
    fn new(cmk: Cmk) -> Arc<Self> {
        Arc::new(Self { cmk, asked: AtomicUsize::new(0) })
    }
}

impl Decapsulator for Service {
    fn recipient(&self) -> &Recipient {
        self.cmk.recipient()
    }

    fn decapsulate(&self, enc: &[u8]) -> Result<SharedSecret, DecapsulateError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.cmk.decapsulate(enc)
    }
}

/// A key that is held elsewhere and that nobody else can use.
struct Token(Arc<Service>);

impl Decapsulator for Token {
    fn recipient(&self) -> &Recipient {
        self.0.recipient()
    }

    fn decapsulate(&self, enc: &[u8]) -> Result<SharedSecret, DecapsulateError> {
        self.0.decapsulate(enc)
    }

    fn is_mine_alone(&self) -> bool {
        true
    }
}

/// Proves PRF-6: through a service, and from outside, a proof says at most group.
#[test]
fn a_dek_that_others_could_have_got_gives_no_verified_sender() {
    let forge = Forge::to(&[*recipient(1).as_x25519().unwrap()]).signed(&ALICE, b"");
    let envelope = forge.envelope(0, 0, b"", b"x");
    let standing = |opener: &Opener| opener.open(&envelope).unwrap().sender.standing();
    assert_eq!(standing(&opener(1)), Standing::Verified);
    let service = Keyring::new();
    service.add_decapsulator(Service::new(cmk(1)));
    assert_eq!(standing(&Opener::new(service)), Standing::Group);
    let token = Keyring::new();
    token.add_decapsulator(Arc::new(Token(Service::new(cmk(1)))));
    assert_eq!(standing(&Opener::new(token)), Standing::Verified);
    let supplied = |dek: Dek| {
        let opener = Opener::new(Keyring::new());
        let Ok(Begun::NeedsDek(mut waiting)) = opener.begin(&envelope) else { panic!("no key at hand") };
        waiting.supply(&dek).unwrap().open().unwrap().sender.standing()
    };
    assert_eq!(supplied(Dek::import(&forge.dek)), Standing::Group);
    assert_eq!(supplied(Dek::import(&forge.dek).mine_alone()), Standing::Verified);
}

/// What is supplied is what is used, also where the cache has learned the block meanwhile.
#[test]
fn a_supplied_dek_is_not_taken_from_the_cache() {
    let forge = Forge::to(&[*recipient(1).as_x25519().unwrap()]).signed(&ALICE, b"");
    let envelope = forge.envelope(0, 0, b"", b"x");
    let opener = Opener::new(Keyring::new());
    let waiting = || match opener.begin(&envelope).unwrap() {
        Begun::NeedsDek(waiting) => waiting,
        Begun::Ready(_) => panic!("no key at hand"),
    };
    let (mut wrong, mut mine, mut theirs) = (waiting(), waiting(), waiting());
    let standing = |opened: Result<Opened, _>| opened.unwrap().sender.standing();
    assert_eq!(standing(theirs.supply(&Dek::import(&forge.dek)).unwrap().open()), Standing::Group);
    assert!(opener.open(&envelope).is_ok(), "from the cache");
    assert!(matches!(wrong.supply(&Dek::import(&[0; 32])), Err(OpenError::HeaderMac)));
    assert_eq!(standing(mine.supply(&Dek::import(&forge.dek).mine_alone()).unwrap().open()), Standing::Verified);
}

/// Proves PRF-3: a block that the cache knows from an envelope is a stranger on a channel, and the other way round.
#[test]
fn the_cache_of_envelopes_is_not_that_of_channels() {
    let opener = opener(1);
    let on_channel = |forge: &Forge| {
        let message = forge.envelope_bound(0, 8 | 1, b"", b"x", b"", b"greeting");
        drain(ChannelOpener::new(opener.clone(), Role::Acceptor, b"greeting"), &message).1
    };
    let alone = Forge::to(&[*recipient(1).as_x25519().unwrap()]).signed(&ALICE, b"");
    assert!(opener.open(&alone.envelope(0, 0, b"", b"x")).is_ok());
    assert!(matches!(on_channel(&alone), Err(OpenError::Proof)));
    let channel = Forge::to(&[*recipient(1).as_x25519().unwrap()]).signed(&ALICE, &channel(false, b"greeting"));
    assert!(on_channel(&channel).is_ok());
    assert!(matches!(opener.open(&channel.envelope(0, 0, b"", b"x")), Err(OpenError::Proof)));
}

/// Proves USE-3: a DEK that was opened with a key of mine alone is not served from the cache once others have the key.
#[test]
fn a_key_that_becomes_shared_is_shared() {
    let forge = Forge::to(&[*recipient(1).as_x25519().unwrap()]).signed(&ALICE, b"");
    let keyring = Keyring::from(cmk(1));
    let opener = Opener::new(keyring.clone());
    let standing = |seq| opener.open(&forge.envelope(seq, 0, b"", b"x")).unwrap().sender.standing();
    assert_eq!((standing(0), standing(1)), (Standing::Verified, Standing::Verified));
    keyring.add_decapsulator(Service::new(cmk(1)));
    assert_eq!((standing(2), standing(3)), (Standing::Group, Standing::Group));
}

/// Proves PRF-7: in the list or not, on a cache hit too, and before anything is decrypted.
#[test]
fn only_listed_senders_are_opened() {
    let refused = |result: Result<Opened, OpenError>| match result {
        Err(OpenError::Policy(PolicyError::Sender(sender))) => sender.standing(),
        other => panic!("{other:?}"),
    };
    let mut alice = to(&[1, 2]).sign_with(sender(&ALICE)).build().unwrap();
    let listed = only(1, Senders::new([name(&ALICE)]));
    for _ in 0..2 {
        let envelope = alice.seal(b"", b"x").unwrap();
        assert_eq!(refused(listed.open(&envelope)), Standing::Group, "the co-recipient could have written it");
        let groups = only(1, Senders::new([name(&ALICE)]).also(Standing::Group));
        assert!(groups.open(&envelope).is_ok());
        assert!(groups.open(&envelope).is_ok(), "from the cache");
        assert_eq!(refused(only(1, Senders::new([name(&BOB)]).also(Standing::Group)).open(&envelope)), Standing::Group);
    }
    let anonymous = to(&[1]).build().unwrap().seal(b"", b"x").unwrap();
    assert_eq!(refused(listed.open(&anonymous)), Standing::Anonymous);
    assert!(only(1, Senders::new([name(&ALICE)]).also(Standing::Anonymous)).open(&anonymous).is_ok());
    // Nor is a key asked for what nobody has signed.
    let (service, keyring) = (Service::new(cmk(1)), Keyring::new());
    keyring.add_decapsulator(service.clone());
    let policy = Policy { senders: Some(Senders::new([name(&ALICE)])), ..Policy::default() };
    assert_eq!(refused(Opener::builder(keyring).policy(policy).build().open(&anonymous)), Standing::Anonymous);
    assert_eq!(service.asked.load(Ordering::SeqCst), 0);
    let foreign = to(&[2]).build().unwrap().seal(b"", b"x").unwrap();
    assert_eq!(refused(listed.open(&foreign)), Standing::Anonymous);
    // The tag is wrong as well, and nobody looked.
    let mut bob = to(&[1]).sign_with(sender(&BOB)).build().unwrap().seal(b"", b"x").unwrap();
    *bob.last_mut().unwrap() ^= 1;
    assert_eq!(refused(listed.open(&bob)), Standing::Verified);
    let text = listed.open(&bob).unwrap_err().to_string();
    assert!(text.contains(&name(&BOB).to_string()), "{text}");
}

fn drain(mut receiver: ChannelOpener, bytes: &[u8]) -> (Vec<Opened>, Result<(), OpenError>) {
    let mut input = BytesMut::from(bytes);
    let mut got = Vec::new();
    loop {
        match receiver.next(&mut input) {
            Ok(Some(opened)) => got.push(opened),
            Ok(None) => return (got, receiver.end(&input)),
            Err(error) => return (got, Err(error)),
        }
    }
}

/// Every epoch has the sender's proof, for this connection and direction alone. Proves PRF-3, CHN-6.
#[test]
fn a_channel_has_one_sender() {
    let reuse = Reuse { messages: 2, ..Reuse::default() };
    let sealed = |signed: bool, role| {
        let builder = to(&[1]).reuse(reuse);
        let builder = if signed { builder.sign_with(sender(&ALICE)) } else { builder };
        let mut channel = ChannelSealer::new(builder.build().unwrap(), role, b"greeting");
        let mut out = BytesMut::new();
        (0..5u8).for_each(|i| channel.seal(b"", &[i], &mut out).unwrap());
        channel.finish(&mut out).unwrap();
        out
    };
    let bytes = sealed(true, Role::Initiator);
    let reader = |opener, binding: &[u8]| ChannelOpener::new(opener, Role::Acceptor, binding);
    let (got, end) = drain(reader(only(1, Senders::new([name(&ALICE)])), b"greeting"), &bytes);
    assert!(end.is_ok() && got.len() == 5);
    assert!(got.iter().all(|opened| opened.sender.standing() == Standing::Verified));
    let (got, end) = drain(reader(opener(1), b"another connection"), &bytes);
    assert!(got.is_empty() && matches!(end, Err(OpenError::Proof)));
    let (got, end) = drain(reader(only(1, Senders::new([name(&BOB)])), b"greeting"), &bytes);
    assert!(got.is_empty() && matches!(end, Err(OpenError::Policy(PolicyError::Sender(_)))));
    let (got, end) = drain(reader(only(1, Senders::new([name(&ALICE)])), b"greeting"), &sealed(false, Role::Initiator));
    assert!(got.is_empty() && matches!(end, Err(OpenError::Policy(PolicyError::Sender(Sender::Anonymous)))));
    // Its block opens nothing outside the channel, also where somebody who has the DEK seals a message under it.
    let forge = Forge::to(&[*recipient(1).as_x25519().unwrap()]).signed(&ALICE, &channel(false, b"greeting"));
    assert!(matches!(opener(1).open(&forge.envelope(0, 0, b"", b"x")), Err(OpenError::Proof)));
    let per_message = to(&[1]).sign_messages_with(sender(&ALICE)).build().unwrap();
    let sealed = ChannelSealer::new(per_message, Role::Initiator, b"").seal(b"", b"x", &mut BytesMut::new());
    assert!(matches!(sealed, Err(SealError::ChannelOfSignedMessages)));
}

/// Every byte of a proof matters, with and without the DEK at hand.
#[test]
fn no_bit_of_a_signed_message_can_change() {
    let mut rng = TestRng::new(3);
    for per_message in [false, true] {
        let builder = to(&[1]);
        let builder = if per_message { builder.sign_messages_with(sender(&ALICE)) } else { builder.sign_with(sender(&ALICE)) };
        let envelope = builder.build().unwrap().seal(b"context", &rng.bytes(100)).unwrap();
        for at in 0..envelope.len() {
            let mut changed = envelope.clone();
            changed[at] ^= 1 << rng.below(8);
            assert!(opener(1).open(&changed).is_err(), "byte {at}");
        }
    }
}

/// Proves USE-5: contexts by a predicate, and post-quantum suites.
#[test]
fn policies_on_context_and_suite() {
    let envelope = to(&[1]).build().unwrap().seal(b"tenant-7/orders", b"x").unwrap();
    let open = |policy| Opener::builder(Keyring::from(cmk(1))).policy(policy).build().open(&envelope);
    let wants = |prefix: &'static [u8]| Policy {
        context: Some(ExpectedContext::when(move |context| context.starts_with(prefix))),
        ..Policy::default()
    };
    assert!(open(wants(b"tenant-7/")).is_ok());
    assert!(matches!(open(wants(b"tenant-8/")), Err(OpenError::Policy(PolicyError::Context))));
    let shown = format!("{:?} {:?}", wants(b"").context, Policy { context: Some(b"tenant".into()), ..Policy::default() }.context);
    assert_eq!(shown, format!("Some(Where(..)) Some(Exactly({:?}))", b"tenant"));
    let pq = || Policy { require_pq: true, ..Policy::default() };
    assert!(matches!(open(pq()), Err(OpenError::Policy(PolicyError::NotPostQuantum(1)))));
    // An external alone: whoever asks for post-quantum must vouch for its provider.
    let part = [&[3][..], b"kms", &[0, 1], b"k", &[0, 4], b"blob"].concat();
    let external = Forge { options: 0, enc: None, externals: vec![part], ..Forge::to(&[]) }.envelope(0, 0, b"", b"x");
    let open = |policy| Opener::builder(Keyring::new()).policy(policy).build().begin(&external).map(|_| ());
    assert!(matches!(open(pq()), Err(OpenError::Policy(PolicyError::ProviderNotPostQuantum(name))) if name == "kms"));
    assert!(open(Policy { pq_providers: vec!["kms".into()], ..pq() }).is_ok());
}

/// A policy on age holds for signed blocks whose cache entry is fresh.
#[test]
fn age_counts_for_signed_blocks_too() {
    let clock = Arc::new(AtomicU64::new(1_700_000_000));
    let policy = Policy { max_age: Some(Duration::from_secs(60)), ..Policy::default() };
    let opener = Opener::builder(Keyring::from(cmk(1))).policy(policy).testing_clock(clock.clone()).build();
    let forge = Forge::to(&[*recipient(1).as_x25519().unwrap()]).signed(&ALICE, b"");
    assert_eq!(verifying_key(&ALICE), *name(&ALICE).as_bytes());
    assert!(opener.open(&forge.envelope(0, 0, b"", b"x")).is_ok());
    clock.fetch_add(361, Ordering::SeqCst);
    assert!(matches!(
        opener.open(&forge.envelope(1, 0, b"", b"x")),
        Err(OpenError::Policy(PolicyError::TooOld { age: 361, maximum: 60 }))
    ));
}
