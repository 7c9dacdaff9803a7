//! The window against replays (spec 10.4): what was opened and kept is not opened again, and nothing is lost by it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::BytesMut;
use kit::{Forge, batch};
use sealwire::{
    Begun, ChannelOpener, ChannelSealer, Cmk, Keyring, OpenError, Opener, Policy, PolicyError, ReplayWindow, Rewrap, Role,
    Sealer, SenderKey, Senders, Standing, rewrap,
};

mod kit;

const NOW: u64 = 1_700_000_000;

fn cmk() -> Cmk {
    Cmk::from_x25519(&[1; 32])
}

fn key() -> [u8; 32] {
    *cmk().recipient().as_x25519().unwrap()
}

/// An opener with a window of so many names, an age of a minute without tolerance, and its clock.
fn opener(capacity: usize, senders: Option<Senders>) -> (Opener, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(NOW));
    let policy = Policy {
        max_age: Some(Duration::from_secs(60)),
        clock_tolerance: Duration::ZERO,
        replay: Some(ReplayWindow::new(capacity)),
        senders,
        ..Policy::default()
    };
    (Opener::builder(Keyring::from(cmk())).policy(policy).testing_clock(clock.clone()).build(), clock)
}

fn forge(salt: u8) -> Forge {
    let forge = Forge { salt: [salt; 16], ..Forge::to(&[]) };
    Forge { slots: vec![forge.slot(&key(), &forge.dek)], ..forge }
}

/// Proves RPL-2, RPL-5.
#[test]
fn a_message_counts_once_it_is_committed() {
    let (opener, _) = opener(10, None);
    let (first, second) = (forge(1).envelope(0, 0, b"", b"one"), forge(1).envelope(1, 0, b"", b"two"));
    let opened = opener.open(&first).unwrap();
    assert!(matches!(opener.open(&first), Err(OpenError::InHand)));
    drop(opened);
    let opened = opener.open_in_place(BytesMut::from(&first[..])).unwrap();
    let copy = opened.clone();
    drop(opened);
    assert!(matches!(opener.open(&first), Err(OpenError::InHand)), "a clone still has it");
    copy.commit();
    drop(copy);
    for _ in 0..2 {
        assert!(matches!(opener.open(&first), Err(OpenError::Duplicate)));
        assert!(matches!(opener.open_in_place(BytesMut::from(&first[..])), Err(OpenError::Duplicate)));
    }
    assert!(opener.open(&second).is_ok(), "another number under the same DEK");
    assert!(opener.open(&forge(2).envelope(0, 0, b"", b"one")).is_ok(), "the same number under another salt");
    // Neither the seq of a fresh message changed to one that was seen, nor a fresh payload under an old number, passes for
    // a duplicate: a consumer drops those without a word.
    let mut renumbered = second.clone();
    renumbered[153 + 7] = 0;
    assert!(matches!(opener.open(&renumbered), Err(OpenError::Segment { index: 0 })));
    // A handler that panics has not taken the message.
    let third = forge(3).envelope(0, 0, b"", b"x");
    let worker = opener.clone();
    let bytes = third.clone();
    let handled = thread::spawn(move || {
        let _opened = worker.open(&bytes).unwrap();
        panic!("the handler fails");
    });
    assert!(handled.join().is_err());
    assert!(opener.open(&third).is_ok());
}

/// A forgery enters nothing, so it cannot burn the genuine message. Proves RPL-2.
#[test]
fn what_is_not_authentic_leaves_no_name() {
    let (opener, _) = opener(1, None);
    let genuine = forge(1).envelope(0, 0, b"", b"genuine");
    let mut forged = genuine.clone();
    *forged.last_mut().unwrap() ^= 1;
    for _ in 0..3 {
        assert!(matches!(opener.open(&forged), Err(OpenError::Segment { .. })));
    }
    let padded = forge(2).envelope(0, 2, b"", b"not padded as it says");
    assert!(matches!(opener.open(&padded), Err(OpenError::Content(_))));
    opener.open(&genuine).unwrap().commit();
    assert!(matches!(opener.open(&genuine), Err(OpenError::Duplicate)));
}

/// Proves RPL-1, RPL-3.
#[test]
fn a_full_window_refuses_and_forgets_nothing_early() {
    let (opener, clock) = opener(2, None);
    let messages: Vec<_> = (0..4).map(|i| forge(i).envelope(0, 0, b"", b"x")).collect();
    opener.open(&messages[0]).unwrap().commit();
    opener.open(&messages[1]).unwrap().commit();
    // Its tag is wrong too: nothing was decrypted.
    let mut third = messages[2].clone();
    *third.last_mut().unwrap() ^= 1;
    let full = |result| matches!(result, Err(OpenError::Policy(PolicyError::WindowFull { capacity: 2 })));
    assert!(full(opener.open(&third)) && full(opener.open_in_place(BytesMut::from(&third[..]))));
    assert!(matches!(opener.open(&messages[0]), Err(OpenError::Duplicate)), "what it knows it still knows");
    clock.store(NOW + 60, Ordering::SeqCst);
    assert!(matches!(opener.open(&messages[0]), Err(OpenError::Duplicate)), "the last second in which it would pass");
    assert!(full(opener.open(&messages[2])));
    clock.store(NOW + 61, Ordering::SeqCst);
    assert!(matches!(opener.open(&messages[0]), Err(OpenError::Policy(PolicyError::TooOld { .. }))));
    let young = |salt| Forge { created_at: NOW + 61, ..forge(salt) }.envelope(0, 0, b"", b"x");
    opener.open(&young(7)).unwrap().commit();
    opener.open(&young(8)).unwrap().commit();
    assert!(full(opener.open(&young(9))));
    // Without an age it would have to grow for ever.
    let policy = Policy { replay: Some(ReplayWindow::new(2)), ..Policy::default() };
    let ageless = Opener::builder(Keyring::from(cmk())).policy(policy).build();
    assert!(matches!(ageless.open(&messages[3]), Err(OpenError::Policy(PolicyError::WindowWithoutAge))));
}

/// A message that is dropped gives back its own place and no other. Proves RPL-3.
#[test]
fn a_dropped_message_gives_back_one_place() {
    let (opener, _) = opener(2, None);
    let open = |salt| opener.open(&forge(salt).envelope(0, 0, b"", b"x"));
    let (one, _two) = (open(1).unwrap(), open(2).unwrap());
    drop(one);
    let _three = open(3).unwrap();
    assert!(matches!(open(4), Err(OpenError::Policy(PolicyError::WindowFull { capacity: 2 }))));
}

/// An opener of the window of another, under another age; both by one clock.
fn with_window(window: &ReplayWindow, age: u64, clock: &Arc<AtomicU64>) -> Opener {
    let policy = Policy {
        max_age: Some(Duration::from_secs(age)),
        clock_tolerance: Duration::ZERO,
        replay: Some(window.clone()),
        ..Policy::default()
    };
    Opener::builder(Keyring::from(cmk())).policy(policy).testing_clock(clock.clone()).build()
}

/// Proves RPL-1: what the window has let go does not come again, however slowly it comes, whatever the clock does, and
/// whoever else uses the window.
#[test]
fn what_is_forgotten_is_refused() {
    let (window, clock) = (ReplayWindow::new(10), Arc::new(AtomicU64::new(NOW)));
    let opener = with_window(&window, 60, &clock);
    let envelope = forge(1).envelope(0, 0, b"", b"pay 5");
    let held: Vec<_> = (0..2)
        .map(|_| match opener.begin(&envelope).unwrap() {
            Begun::Ready(ready) => ready,
            Begun::NeedsDek(_) => panic!("the key is there"),
        })
        .collect();
    opener.open(&envelope).unwrap().commit();
    let older = |result| matches!(result, Err(OpenError::Policy(PolicyError::OlderThanTheWindow)));
    clock.store(NOW + 61, Ordering::SeqCst);
    for ready in held {
        assert!(older(ready.open()), "held until its age ran out");
    }
    // A fresh message makes the window forget, and the clock goes back.
    let young = Forge { created_at: NOW + 3600, ..forge(2) }.envelope(0, 0, b"", b"x");
    clock.store(NOW + 3600, Ordering::SeqCst);
    opener.open(&young).unwrap().commit();
    clock.store(NOW, Ordering::SeqCst);
    assert!(older(opener.open(&envelope)));
    assert!(opener.open(&Forge { created_at: NOW + 1, ..forge(3) }.envelope(0, 0, b"", b"x")).is_err(), "from the future");
    clock.store(NOW + 1, Ordering::SeqCst);
    assert!(
        opener.open(&Forge { created_at: NOW + 1, ..forge(3) }.envelope(0, 0, b"", b"x")).is_ok(),
        "but what is newer is new"
    );

    // A window that two policies share keeps names for the longer of their ages.
    let (window, clock) = (ReplayWindow::new(10), Arc::new(AtomicU64::new(NOW)));
    let (short, long) = (with_window(&window, 1, &clock), with_window(&window, 3600, &clock));
    short.open(&envelope).unwrap().commit();
    assert!(matches!(long.open(&envelope), Err(OpenError::Duplicate)));
    clock.store(NOW + 10, Ordering::SeqCst);
    assert!(short.open(&Forge { created_at: NOW + 10, ..forge(2) }.envelope(0, 0, b"", b"x")).is_ok());
    assert!(matches!(long.open(&envelope), Err(OpenError::Duplicate)));
    clock.store(NOW + 3601, Ordering::SeqCst);
    assert!(matches!(long.open(&envelope), Err(OpenError::Policy(PolicyError::TooOld { .. }))));
}

/// A name stays as long as its block passes, and the tolerance for clocks is part of that. Proves RPL-1.
#[test]
fn the_tolerance_for_clocks_counts_in_the_window_too() {
    let clock = Arc::new(AtomicU64::new(NOW + 359));
    let (max_age, replay) = (Some(Duration::from_secs(60)), Some(ReplayWindow::new(1)));
    let policy = Policy { max_age, replay, clock_tolerance: Duration::from_secs(300), ..Policy::default() };
    let opener = Opener::builder(Keyring::from(cmk())).policy(policy).testing_clock(clock.clone()).build();
    let envelope = forge(1).envelope(0, 0, b"", b"x");
    opener.open(&envelope).unwrap().commit();
    clock.store(NOW + 360, Ordering::SeqCst);
    assert!(matches!(opener.open(&envelope), Err(OpenError::Duplicate)));
    clock.store(NOW + 361, Ordering::SeqCst);
    assert!(matches!(opener.open(&envelope), Err(OpenError::Policy(PolicyError::TooOld { .. }))));
}

/// A window that is full, or has no place at all, opens no channel either, and decrypts nothing. Proves RPL-3.
#[test]
fn a_full_window_opens_no_channel() {
    for capacity in [0, 1] {
        let (opener, _) = opener(capacity, None);
        let kept = opener.open(&forge(1).envelope(0, 0, b"", b"x"));
        assert_eq!(kept.is_ok(), capacity == 1);
        let mut first = BytesMut::from(&forge(2).envelope_bound(0, 8, b"", b"x", b"", b"")[..]);
        *first.last_mut().unwrap() ^= 1;
        let opened = ChannelOpener::new(opener, Role::Acceptor, b"").next(&mut first);
        assert!(matches!(opened, Err(OpenError::Policy(PolicyError::WindowFull { capacity: full })) if full == capacity));
    }
}

/// An epoch of a channel takes one place, whatever follows in it.
#[test]
fn an_epoch_takes_one_place() {
    let (opener, _) = opener(1, None);
    let first = forge(1).envelope_bound(0, 8, b"", b"x", b"", b"");
    let later = (1..4).flat_map(|seq| forge(1).follow_up(seq, 8, b"", b"x", b""));
    let mut input: BytesMut = first.into_iter().chain(later).collect();
    let mut channel = ChannelOpener::new(opener, Role::Acceptor, b"");
    let held: Vec<_> = std::iter::from_fn(|| channel.next(&mut input).unwrap()).collect();
    assert_eq!(held.len(), 4);
}

/// A message that nobody has seen yet is refused as well once its age has run out while it was handled. Proves RPL-1.
#[test]
fn what_is_held_too_long_is_refused() {
    let (opener, clock) = opener(10, None);
    let envelope = forge(1).envelope(0, 0, b"", b"x");
    for (later, opens) in [(61, false), (60, true)] {
        clock.store(NOW, Ordering::SeqCst);
        let Ok(Begun::Ready(ready)) = opener.begin(&envelope) else { panic!("the key is there") };
        clock.store(NOW + later, Ordering::SeqCst);
        let opened = ready.open();
        assert_eq!(opened.is_ok(), opens);
        assert!(opens || matches!(opened, Err(OpenError::Policy(PolicyError::OlderThanTheWindow))));
    }
}

/// A slow connection whose age runs out on the way delivers nothing. Proves RPL-1, USE-3.
#[test]
fn a_slow_connection_is_no_way_around_the_window() {
    let (window, clock) = (ReplayWindow::new(10), Arc::new(AtomicU64::new(NOW)));
    let opener = with_window(&window, 60, &clock);
    let recorded = forge(1).envelope_bound(0, 8, b"", b"pay 5", b"", b"");
    let play = |until: usize| {
        let mut channel = ChannelOpener::new(opener.clone(), Role::Acceptor, b"");
        let mut input = BytesMut::from(&recorded[..until]);
        (channel.next(&mut input).map(|opened| opened.map(|opened| opened.commit())), channel, input)
    };
    let (got, mut first, _) = play(recorded.len());
    assert!(matches!(got, Ok(Some(()))));
    let slow: Vec<_> = (0..2).map(|_| play(recorded.len() - 1)).collect();
    clock.store(NOW + 61, Ordering::SeqCst);
    for (got, mut channel, mut input) in slow {
        assert!(matches!(got, Ok(None)));
        input.extend_from_slice(&recorded[recorded.len() - 1..]);
        assert!(matches!(channel.next(&mut input), Err(OpenError::Policy(PolicyError::OlderThanTheWindow))));
    }
    // Nor do follow-ups come under a DEK that is too old.
    let mut input = BytesMut::from(&forge(1).follow_up(1, 8, b"", b"pay 6", b"")[..]);
    assert!(matches!(first.next(&mut input), Err(OpenError::Policy(PolicyError::TooOld { age: 61, maximum: 60 }))));
}

/// A name that was let go and came again, in a block of another date that somebody with the DEK has made, is not the one that an
/// old handler drops or commits. Proves RPL-5.
#[test]
fn an_old_handler_drops_its_own_name_alone() {
    for commit in [false, true] {
        let (window, clock) = (ReplayWindow::new(10), Arc::new(AtomicU64::new(NOW)));
        let opener = with_window(&window, 60, &clock);
        let old = opener.open(&forge(1).envelope(0, 0, b"", b"x")).unwrap();
        clock.store(NOW + 61, Ordering::SeqCst);
        let anew = Forge { created_at: NOW + 61, ..forge(1) }.envelope(0, 0, b"", b"x");
        let new = opener.open(&anew).unwrap();
        if commit {
            old.commit();
        }
        drop(old);
        assert!(matches!(opener.open(&anew), Err(OpenError::InHand)));
        assert!(format!("{window:?}").contains("names: 1"));
        new.commit();
        assert!(matches!(opener.open(&anew), Err(OpenError::Duplicate)));
    }
}

/// Proves RPL-4.
#[test]
fn one_sender_cannot_fill_another_s_window() {
    let (alice, bob) = ([0xa1; 32], [0xb0; 32]);
    let listed = Senders::new([alice, bob].map(|seed| *SenderKey::from_ed25519(&seed).verifying_key()));
    let (opener, _) = opener(2, Some(listed));
    let by = |seed: &[u8; 32], salt| forge(salt).signed(seed, b"").envelope(0, 0, b"", b"x");
    (0..2).for_each(|i| opener.open(&by(&bob, i)).unwrap().commit());
    assert!(matches!(opener.open(&by(&bob, 2)), Err(OpenError::Policy(PolicyError::WindowFull { .. }))));
    (10..12).for_each(|i| opener.open(&by(&alice, i)).unwrap().commit());
    for stranger in 20..30 {
        assert!(matches!(opener.open(&by(&[9; 32], stranger)), Err(OpenError::Policy(PolicyError::Sender(_)))));
    }
    assert!(matches!(opener.open(&by(&alice, 10)), Err(OpenError::Duplicate)));
}

/// Without a list anyone can make a key, and so all keys share one window. Proves RPL-3.
#[test]
fn keys_that_nobody_listed_share_a_window() {
    let (opener, _) = opener(2, None);
    let by = |seed| opener.open(&forge(seed).signed(&[seed; 32], b"").envelope(0, 0, b"", b"x"));
    let _held = (by(1).unwrap(), by(2).unwrap());
    assert!(matches!(by(3), Err(OpenError::Policy(PolicyError::WindowFull { capacity: 2 }))));
}

/// What others made of a sender's DEKs does not crowd out what is known to be his. Proves RPL-4.
#[test]
fn origins_do_not_fill_the_window_of_the_verified() {
    let alice = SenderKey::from_ed25519(&[0xa1; 32]);
    let listed = Senders::new([*alice.verifying_key()]).also(Standing::Origin);
    let (opener, _) = opener(2, Some(listed));
    let with = Keyring::from(cmk());
    for salt in 0..2 {
        let theirs = forge(salt).signed(&[0xa1; 32], b"").envelope(0, 0, b"", b"x");
        let change = Rewrap::new().replace_all().to(cmk().recipient().clone()).weaken_proof();
        opener.open(&rewrap(&theirs, &with, &change).unwrap()).unwrap().commit();
    }
    assert!(opener.open(&forge(9).signed(&[0xa1; 32], b"").envelope(0, 0, b"", b"x")).is_ok());
}

/// What an insider makes of a signed letter (the proof taken off, or his own in its place) is another message: it cannot make the
/// genuine one vanish as a duplicate.
#[test]
fn an_insider_s_copy_is_not_the_signed_message() {
    let (opener, _) = opener(10, None);
    let plain = forge(1).envelope(0, 0, b"", b"x");
    let by_bob = forge(1).signed_message(&[0xb0; 32], b"", b"x").envelope(0, 0, b"", b"x");
    let genuine = forge(1).signed_message(&[0xa1; 32], b"", b"x").envelope(0, 0, b"", b"x");
    let by_dek = forge(1).signed(&[0xa1; 32], b"").envelope(0, 0, b"", b"x");
    for message in [&plain, &by_bob, &by_dek, &genuine] {
        opener.open(message).unwrap().commit();
        assert!(matches!(opener.open(message), Err(OpenError::Duplicate)));
    }
}

/// The same message for others, or for the same reader in another way, is the same message.
#[test]
fn a_rewrap_is_a_replay() {
    let (opener, _) = opener(10, None);
    let message = forge(1).envelope(0, 0, b"", b"pay 5");
    opener.open(&message).unwrap().commit();
    let bob = Cmk::from_x25519(&[2; 32]).recipient().clone();
    let with = Keyring::from(cmk());
    let added = rewrap(&message, &with, &Rewrap::new().to(bob)).unwrap();
    let anew = rewrap(&message, &with, &Rewrap::new().replace_all().to(cmk().recipient().clone())).unwrap();
    for again in [added, anew] {
        assert!(matches!(opener.open(&again), Err(OpenError::Duplicate)));
    }
}

/// A recorded connection is refused at its first message, also one whose first message is a batch.
#[test]
fn a_channel_is_a_replay_by_its_first_message() {
    let (opener, _) = opener(10, None);
    let clock = Arc::new(AtomicU64::new(NOW));
    let sealer = Sealer::builder().to(cmk().recipient().clone()).testing_clock(clock).build().unwrap();
    let mut sender = ChannelSealer::new(sealer, Role::Initiator, b"");
    let mut recorded = BytesMut::new();
    sender.seal(b"", b"one", &mut recorded).unwrap();
    sender.seal(b"", b"two", &mut recorded).unwrap();
    sender.renew();
    sender.seal(b"", b"three", &mut recorded).unwrap();
    sender.finish(&mut recorded).unwrap();
    let play = |commit: bool| {
        let mut channel = ChannelOpener::new(opener.clone(), Role::Acceptor, b"");
        let mut input = recorded.clone();
        let mut got = Vec::new();
        while let Some(opened) = channel.next(&mut input)? {
            got.push(opened);
        }
        if commit {
            got.iter().for_each(sealwire::Opened::commit);
        }
        channel.end(&input).map(|()| got.len())
    };
    assert_eq!(play(false).unwrap(), 3, "not kept by the application");
    assert_eq!(play(true).unwrap(), 3, "so it may come again");
    assert!(matches!(play(true), Err(OpenError::Duplicate)));

    let first = Forge { created_at: NOW, ..forge(9) }.envelope_bound(0, 8 | 4, b"", &batch(&[b"a", b"b"]), b"", b"");
    let begin = || {
        let mut channel = ChannelOpener::new(opener.clone(), Role::Acceptor, b"");
        let mut input = BytesMut::from(&first[..]);
        let a = channel.next(&mut input)?.unwrap();
        Ok::<_, OpenError>((a, channel.next(&mut input)?.unwrap()))
    };
    let (a, b) = begin().unwrap();
    a.commit();
    drop((a, b));
    let (_, b) = begin().expect("the first of a batch is not the whole of it");
    b.commit();
    assert!(matches!(begin(), Err(OpenError::Duplicate)));
}
