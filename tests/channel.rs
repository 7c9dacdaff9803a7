//! Channels: what is sent arrives in order and whole, and every attack on the way is noticed at the first wrong message.

use bytes::BytesMut;
use kit::Forge;
use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, Dek, Keyring, LimitExceeded, Limits, OpenError, Opened, Opener, ParseError, Policy,
    PolicyError, Reuse, Role, SealError, Sealer, open, reply_binding,
};

mod kit;

const CHANNEL: u8 = 8;
const LAST: u8 = 1;
const PADDED: u8 = 2;
const BATCH: u8 = 4;
const ACCEPTOR: u8 = 16;

fn cmk() -> Cmk {
    Cmk::from_x25519(&[1; 32])
}

fn key() -> [u8; 32] {
    *cmk().recipient().as_x25519().unwrap()
}

fn sealer(reuse: u64) -> Sealer {
    let reuse = Reuse { messages: reuse, ..Reuse::default() };
    Sealer::builder().to(cmk().recipient().clone()).reuse(reuse).build().unwrap()
}

fn sender(reuse: u64) -> ChannelSealer {
    ChannelSealer::new(sealer(reuse), Role::Initiator, b"greeting")
}

fn receiver() -> ChannelOpener {
    ChannelOpener::new(Opener::new(Keyring::from(cmk())), Role::Acceptor, b"greeting")
}

/// Everything that a receiver gives for some bytes, and how it ends.
fn receive(bytes: &[u8]) -> (Vec<Vec<u8>>, Result<(), OpenError>) {
    drain(receiver(), bytes)
}

fn drain(mut receiver: ChannelOpener, bytes: &[u8]) -> (Vec<Vec<u8>>, Result<(), OpenError>) {
    let mut input = BytesMut::from(bytes);
    let mut got = Vec::new();
    loop {
        match receiver.next(&mut input) {
            Ok(Some(Opened { payload, .. })) => got.push(payload.to_vec()),
            Ok(None) => return (got, receiver.end(&input)),
            Err(error) => {
                assert!(matches!(receiver.next(&mut input), Err(OpenError::Failed)), "it stays failed");
                assert!(matches!(receiver.end(&input), Err(OpenError::Failed)));
                return (got, Err(error));
            }
        }
    }
}

/// Messages 0, 1, 2 … as separate pieces, the last one a notice.
fn pieces(n: u8, reuse: u64) -> Vec<Vec<u8>> {
    let mut sender = sender(reuse);
    let piece = |result: Result<(), SealError>, out: BytesMut| result.map(|()| out.to_vec()).unwrap();
    let mut pieces: Vec<_> = (0..n)
        .map(|i| {
            let mut out = BytesMut::new();
            let sealed = sender.seal(b"", &[i; 20], &mut out);
            piece(sealed, out)
        })
        .collect();
    let mut out = BytesMut::new();
    let sealed = sender.finish(&mut out);
    pieces.push(piece(sealed, out));
    pieces
}

fn payloads(n: u8) -> Vec<Vec<u8>> {
    (0..n).map(|i| vec![i; 20]).collect()
}

fn malformed(result: Result<(), OpenError>) -> &'static str {
    match result {
        Err(OpenError::Parse(ParseError::Malformed { field, .. })) => field,
        other => panic!("{other:?}"),
    }
}

/// Proves CHN-7, CHN-15.
#[test]
fn messages_arrive_in_order_over_renewals() {
    for reuse in [1, 2, 3, 100] {
        let (got, end) = receive(&pieces(9, reuse).concat());
        assert_eq!(got, payloads(9));
        end.unwrap();
    }
}

#[test]
fn sizes_are_those_of_the_format() {
    let pieces = pieces(3, 2);
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [20 + 185, 20 + 24, 20 + 185, 24]);
}

/// The kit writes the same stream from the tables alone; acceptor, context, renewal, batch and padding.
#[test]
fn the_kits_channel_opens() {
    let binding = reply_binding(&[0x77; 32], b"app");
    let first = Forge::to(&[key()]);
    let second = Forge { salt: [0x6b; 16], dek: [0xd2; 32], ..Forge::to(&[]) };
    let second = Forge { slots: vec![second.slot(&key(), &second.dek)], segment_log2: 12, ..second };
    let chain = first.keys().derive("sealwire v1 chain");
    let flags = CHANNEL | ACCEPTOR;
    let stream = [
        first.envelope_bound(0, flags, b"c0", b"zero", b"", &binding),
        first.follow_up(1, flags | BATCH, b"c1", &kit::batch(&[b"one", b"", b"two"]), &binding),
        second.envelope_bound(2, flags, b"", &[7; 9000], &chain, &binding),
        second.follow_up(3, flags | 2, b"", &kit::pad(b"padded", 14), &binding),
        second.follow_up(4, flags | 2 | BATCH, b"", &kit::pad(&kit::batch(&[b"both"]), 16), &binding),
        second.follow_up(5, flags | LAST, b"", b"last", &binding),
    ]
    .concat();
    let opener = Opener::new(Keyring::from(cmk()));
    let (got, end) = drain(ChannelOpener::new(opener, Role::Initiator, &binding), &stream);
    let expected: [&[u8]; 8] = [b"zero", b"one", b"", b"two", &[7; 9000], b"padded", b"both", b"last"];
    assert_eq!(got, expected);
    end.unwrap();
}

/// What is padded arrives without its padding, also on a channel; and the channel is open until its last message.
#[test]
fn padded_messages_arrive_as_they_were() {
    let sealer = Sealer::builder().to(cmk().recipient().clone()).pad(true).build().unwrap();
    let mut sender = ChannelSealer::new(sealer, Role::Initiator, b"greeting");
    let mut out = BytesMut::new();
    sender.seal(b"", &[7; 1001], &mut out).unwrap();
    let first = out.len();
    sender.seal(b"", &[7; 1003], &mut out).unwrap();
    assert_eq!(out.len() - first, 4 + 4 + 1024 + 16);
    assert!(!sender.is_closed());
    sender.finish(&mut out).unwrap();
    assert!(sender.is_closed());
    let (got, end) = receive(&out);
    assert!(end.is_ok());
    assert_eq!(got, [vec![7; 1001], vec![7; 1003]]);
}

/// Proves CHN-13, CHN-15: an empty last message is delivered, a notice is not.
#[test]
fn an_empty_last_message_is_not_lost() {
    let mut out = BytesMut::new();
    let mut channel = sender(10);
    channel.seal_last(b"ctx", b"", &mut out).unwrap();
    assert!(channel.is_closed());
    assert_eq!(receive(&out).0, [b""]);
    let mut input = out.clone();
    assert_eq!(&receiver().next(&mut input).unwrap().unwrap().context[..], b"ctx");
    let mut out = BytesMut::new();
    sender(10).finish(&mut out).unwrap();
    let (got, end) = receive(&out);
    assert!(got.is_empty() && end.is_ok());
    let forge = Forge::to(&[key()]);
    let padded_notice = forge.envelope_bound(0, CHANNEL | LAST | 2, b"", &kit::pad(b"", 8), b"", b"greeting");
    assert!(receive(&padded_notice).0.is_empty());
}

/// Proves CHN-8, CHN-14.
#[test]
fn nothing_follows_the_last_message() {
    let mut channel = sender(10);
    let mut out = BytesMut::new();
    channel.seal_last(b"", b"bye", &mut out).unwrap();
    let before = out.clone();
    assert_eq!(channel.seal(b"", b"more", &mut out), Err(SealError::Closed));
    assert_eq!(channel.finish(&mut out), Err(SealError::Closed));
    assert_eq!(out, before);
    let (got, end) = receive(&[&out[..], &[1]].concat());
    assert_eq!(got, [b"bye"]);
    assert!(matches!(end, Err(OpenError::Parse(ParseError::TrailingBytes { .. }))));
    // Refused when it is seen, before the end is told.
    let (mut early, mut input) = (receiver(), BytesMut::from(&[&out[..], &[1]].concat()[..]));
    assert!(early.next(&mut input).unwrap().is_some());
    assert!(matches!(early.next(&mut input), Err(OpenError::Parse(ParseError::TrailingBytes { .. }))));
    // The same when the end is told before the bytes are looked at.
    let (mut receiver, mut input) = (receiver(), out.clone());
    assert!(!receiver.is_closed());
    while receiver.next(&mut input).unwrap().is_some() {}
    assert!(receiver.is_closed());
    assert!(matches!(receiver.end(b"x"), Err(OpenError::Parse(ParseError::TrailingBytes { .. }))));
    assert!(matches!(receiver.end(b""), Err(OpenError::Failed)));
}

/// Proves CHN-9: every cut is told, and what came before it stays.
#[test]
fn a_cut_is_no_end() {
    let pieces = pieces(4, 2);
    let whole = pieces.concat();
    let ends: Vec<usize> = pieces
        .iter()
        .scan(0, |at, piece| {
            *at += piece.len();
            Some(*at)
        })
        .collect();
    for n in 0..whole.len() {
        let (got, end) = receive(&whole[..n]);
        let complete = ends.iter().filter(|end| **end <= n).count();
        assert_eq!(got, payloads(complete.min(4) as u8));
        assert!(matches!(&end, Err(OpenError::ChannelTruncated { delivered }) if *delivered == complete as u64));
        assert_eq!(end.unwrap_err().to_peer(), "truncated");
    }
}

/// Proves CHN-4: every flipped bit stops the channel at its message.
#[test]
fn every_bit_counts() {
    let pieces = pieces(3, 2);
    let whole = pieces.concat();
    for bit in 0..whole.len() * 8 {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let (mut at, mut before) = (0, 0);
        for piece in &pieces {
            if bit / 8 < at + piece.len() {
                break;
            }
            at += piece.len();
            before += 1;
        }
        let (got, end) = receive(&changed);
        assert!(end.is_err(), "bit {bit}");
        assert_eq!(got, payloads(before), "bit {bit}");
    }
}

/// Proves CHN-4: dropped, swapped, repeated.
#[test]
fn order_and_completeness() {
    for reuse in [1, 2, 100] {
        let pieces = pieces(6, reuse);
        for i in 0..6 {
            let mut dropped = pieces.clone();
            dropped.remove(i);
            let mut swapped = pieces.clone();
            swapped.swap(i, i + 1);
            let mut repeated = pieces.clone();
            repeated.insert(i, pieces[i].clone());
            for (what, attack, good) in [("dropped", dropped, i), ("swapped", swapped, i), ("repeated", repeated, i + 1)] {
                let (got, end) = receive(&attack.concat());
                assert!(end.is_err(), "{what} {i}");
                assert_eq!(got, payloads(good as u8), "{what} {i}");
            }
        }
    }
}

/// Proves CHN-3.
#[test]
fn a_channel_begins_with_its_first_envelope() {
    let pieces = pieces(4, 2);
    assert_eq!(malformed(receive(&pieces[1]).1), "type");
    assert_eq!(malformed(receive(&pieces[2..].concat()).1), "seq");
    let forge = Forge::to(&[key()]);
    let late = forge.envelope_bound(1, CHANNEL, b"", b"x", b"", b"greeting");
    assert_eq!(malformed(receive(&late).1), "seq");
}

/// Proves CHN-1, CHN-2: a message of a channel opens nowhere else, and the reverse.
#[test]
fn channels_and_single_messages_do_not_mix() {
    let pieces = pieces(2, 100);
    assert!(open(&pieces[0], &Keyring::from(cmk())).is_err());
    let mut single = sealer(1);
    assert_eq!(malformed(receive(&single.seal(b"", b"x").unwrap()).1), "flags");
    // A follow-up dressed up as an envelope, by whoever sits on the path: block and head of the first message.
    let follow_up = &pieces[1];
    let dressed = [&pieces[0][..153], &1u64.to_be_bytes(), &[16], &follow_up[1..2], &[0, 0], &follow_up[4..]].concat();
    assert!(open(&dressed, &Keyring::from(cmk())).is_err());
    let mut cleared = dressed.clone();
    cleared[162] = 0;
    assert!(matches!(open(&cleared, &Keyring::from(cmk())), Err(OpenError::Segment { index: 0 })));
    assert_eq!(malformed(receive(&[&pieces[0][..], &dressed].concat()).1), "salt");
}

/// Proves CHN-5, CHN-7: epochs of another connection, anonymous ones, and old ones.
#[test]
fn epochs_are_chained() {
    let (ours, theirs) = (pieces(4, 2), pieces(4, 2));
    // A renewal of another connection, with the right seq and the same binding.
    let (got, end) = receive(&[&ours[0][..], &ours[1], &theirs[2]].concat());
    assert_eq!(got, payloads(2));
    assert!(matches!(end, Err(OpenError::Segment { index: 0 })));
    // An epoch that somebody without a part in the connection made for the same recipient.
    let forge = Forge::to(&[key()]);
    for chain in [&b""[..], &[0; 32]] {
        let inserted = forge.envelope_bound(2, CHANNEL, b"", b"evil", chain, b"greeting");
        let (got, end) = receive(&[&ours[0][..], &ours[1], &inserted].concat());
        assert_eq!(got, payloads(2));
        assert!(matches!(end, Err(OpenError::Segment { index: 0 })));
    }
    // The same block again.
    let first = forge.envelope_bound(0, CHANNEL, b"", b"x", b"", b"greeting");
    let again = forge.envelope_bound(1, CHANNEL, b"", b"y", &forge.keys().derive("sealwire v1 chain"), b"greeting");
    assert_eq!(malformed(receive(&[&first[..], &again].concat()).1), "salt");
    // A salt is another one if any of its bytes is.
    for at in [0, 15] {
        let mut second = Forge { dek: [0xd2; 32], ..Forge::to(&[]) };
        second.salt[at] ^= 1;
        second.slots = vec![second.slot(&key(), &second.dek)];
        let renewal = second.envelope_bound(1, CHANNEL, b"", b"y", &forge.keys().derive("sealwire v1 chain"), b"greeting");
        assert_eq!(receive(&[&first[..], &renewal].concat()).0, [b"x", b"y"], "byte {at}");
    }
}

/// Proves CHN-10: reflection.
#[test]
fn a_side_refuses_its_own_messages() {
    let mut acceptor = ChannelSealer::new(sealer(9), Role::Acceptor, b"greeting");
    let mut out = BytesMut::new();
    acceptor.seal(b"", b"x", &mut out).unwrap();
    assert_eq!(malformed(receive(&out).1), "flags");
    let initiators = pieces(1, 9).concat();
    let opener = Opener::new(Keyring::from(cmk()));
    let own = drain(ChannelOpener::new(opener, Role::Initiator, b"greeting"), &initiators);
    assert_eq!(malformed(own.1), "flags");
}

/// Proves CHN-11: replies are bound to the block that they answer.
#[test]
fn replies_are_bound_to_their_request() {
    let mut out = BytesMut::new();
    let mut requests = sender(9);
    requests.seal(b"", b"?", &mut out).unwrap();
    let mut receiver = receiver();
    receiver.next(&mut out).unwrap().unwrap();
    assert_eq!(receiver.first_header_mac(), requests.first_header_mac());
    // The first block stays the one that is bound, and comes before what the application binds.
    requests.renew();
    requests.seal(b"", b"?", &mut out).unwrap();
    let first = *receiver.first_header_mac().unwrap();
    receiver.next(&mut out).unwrap().unwrap();
    assert_eq!((receiver.first_header_mac(), requests.first_header_mac()), (Some(&first), Some(&first)));
    assert_eq!(reply_binding(&first, b"greeting"), [&first[..], b"greeting"].concat());
    let binding = reply_binding(receiver.first_header_mac().unwrap(), b"greeting");
    let mut replies = ChannelSealer::new(sealer(9), Role::Acceptor, &binding);
    let mut reply = BytesMut::new();
    replies.seal_last(b"", b"!", &mut reply).unwrap();
    let expect = |mac: &[u8; 32]| {
        let opener = Opener::new(Keyring::from(cmk()));
        drain(ChannelOpener::new(opener, Role::Initiator, &reply_binding(mac, b"greeting")), &reply)
    };
    assert_eq!(expect(requests.first_header_mac().unwrap()).0, [b"!"]);
    assert!(matches!(expect(&[0; 32]).1, Err(OpenError::Segment { index: 0 })));
}

/// A recorded connection, played to a receiver that gave another greeting.
#[test]
fn a_replay_delivers_nothing() {
    let recorded = pieces(3, 2).concat();
    let opener = Opener::new(Keyring::from(cmk()));
    let (got, end) = drain(ChannelOpener::new(opener, Role::Acceptor, b"another greeting"), &recorded);
    assert!(got.is_empty());
    assert!(matches!(end, Err(OpenError::Segment { index: 0 })));
}

/// Proves CHN-12: another channel of the same sealer has another DEK, also when that was imported.
#[test]
fn a_channel_has_a_dek_of_its_own() {
    let mut sealer = Sealer::builder().to(cmk().recipient().clone()).dek(Dek::import(&[5; 32])).build().unwrap();
    let single = sealer.seal(b"", b"x").unwrap();
    let mut out = BytesMut::new();
    ChannelSealer::new(sealer, Role::Initiator, b"greeting").seal(b"", b"x", &mut out).unwrap();
    assert_ne!(single[21..37], out[21..37]);
    let opener = Opener::new(Keyring::new());
    let waiting = ChannelOpener::new(opener, Role::Acceptor, b"greeting").waiting_for_deks();
    let mut waiting = waiting;
    assert!(waiting.next(&mut out).unwrap().is_none());
    assert!(matches!(waiting.supply(&mut out, &Dek::import(&[5; 32])), Err(OpenError::HeaderMac)));
}

/// Proves KEY-4: 2^64 − 1 may be used, and nothing follows it.
#[test]
fn the_last_sequence_number() {
    let mut channel = sender(u64::MAX);
    let mut out = BytesMut::new();
    channel.seal(b"", b"first", &mut out).unwrap();
    channel.testing_skip_to(u64::MAX - 1);
    channel.seal(b"", b"before it", &mut out).unwrap();
    channel.seal(b"", b"at the end", &mut out).unwrap();
    let before = out.clone();
    assert_eq!(channel.seal(b"", b"over", &mut out), Err(SealError::SequenceExhausted));
    channel.renew();
    assert_eq!(channel.finish(&mut out), Err(SealError::SequenceExhausted));
    assert_eq!(out, before);
}

#[test]
fn renewals_on_demand() {
    let mut channel = sender(100);
    let mut out = BytesMut::new();
    channel.seal(b"", &[0; 20], &mut out).unwrap();
    channel.renew();
    channel.seal(b"", &[1; 20], &mut out).unwrap();
    channel.seal(b"", &[2; 20], &mut out).unwrap();
    channel.finish(&mut out).unwrap();
    assert_eq!(out.len(), 2 * 205 + 44 + 24);
    assert_eq!(receive(&out).0, payloads(3));
}

fn under(policy: Policy, bytes: &[u8]) -> (Vec<Vec<u8>>, Result<(), OpenError>) {
    let opener = Opener::builder(Keyring::from(cmk())).policy(policy).build();
    drain(ChannelOpener::new(opener, Role::Acceptor, b"greeting"), bytes)
}

/// Proves USE-5, CHN-15: every message has the context that the policy expects, but for a notice of the end.
#[test]
fn contexts_are_expected_of_all_but_notices() {
    let forge = Forge::to(&[key()]);
    let policy = || Policy { context: Some(b"orders".to_vec().into()), ..Policy::default() };
    let after = |flags: u8, context: &[u8], plaintext: &[u8]| {
        let first = forge.envelope_bound(0, CHANNEL, b"orders", b"x", b"", b"greeting");
        under(policy(), &[first, forge.follow_up(1, CHANNEL | flags, context, plaintext, b"greeting")].concat())
    };
    assert_eq!(after(LAST, b"orders", b"y").0, [b"x", b"y"]);
    for (flags, plaintext) in [(LAST, &b""[..]), (LAST | PADDED, &kit::pad(b"", 8))] {
        assert!(after(flags, b"other", plaintext).1.is_ok());
    }
    let refused = [
        (0, &b"y"[..]),
        (0, b""),
        (LAST, b"y"),
        (LAST, b"8 bytes."),
        (PADDED, &kit::pad(b"", 8)),
        (LAST | PADDED, &kit::pad(b"y", 9)),
        (LAST | BATCH, b""),
        (LAST | BATCH, &[0; 4]),
    ];
    for (flags, plaintext) in refused {
        let (got, end) = after(flags, b"other", plaintext);
        assert_eq!(got, [b"x"]);
        assert!(matches!(end, Err(OpenError::Policy(PolicyError::Context))), "{flags} {plaintext:?}");
    }
}

/// Proves LIM-3: the limit is on all segments together, and met when the prefix comes.
#[test]
fn a_message_of_many_segments_keeps_the_limit() {
    let forge = Forge { segment_log2: 12, ..Forge::to(&[key()]) };
    let policy = || Policy { limits: Limits { message: 5000, ..Limits::default() }, ..Policy::default() };
    let sealed = |len| forge.envelope_bound(0, CHANNEL | LAST, b"", &vec![1; len], b"", b"greeting");
    assert_eq!(under(policy(), &sealed(5000)).0, [vec![1; 5000]]);
    let second_prefix = 165 + 4096 + 20 + 4;
    let (got, end) = under(policy(), &sealed(5001)[..second_prefix]);
    assert!(got.is_empty());
    assert!(matches!(
        end,
        Err(OpenError::Parse(ParseError::LimitExceeded(LimitExceeded { limit: "message", value: 5001, maximum: 5000 })))
    ));
}

/// Proves BAT-3: a batch whose framing breaks at its end delivers nothing.
#[test]
fn batches_are_checked_to_their_end() {
    let forge = Forge::to(&[key()]);
    let send = |payload: &[u8]| receive(&forge.envelope_bound(0, CHANNEL | BATCH, b"", payload, b"", b"greeting"));
    assert_eq!(send(&kit::batch(&[b"a", b"b"])).0, [b"a", b"b"]);
    for bad in [[&kit::batch(&[b"a", b"b"])[..], &[0]].concat(), Vec::new(), vec![0xff; 4]] {
        let (got, end) = send(&bad);
        assert!(got.is_empty() && matches!(end, Err(OpenError::Content(_))));
    }
    let last = receive(&forge.envelope_bound(0, CHANNEL | BATCH | LAST, b"", &kit::batch(&[b"a", b""]), b"", b"greeting"));
    assert_eq!(last.0, [&b"a"[..], b""]);
    last.1.unwrap();
}

/// A refused size costs no sequence number: the channel goes on.
#[test]
fn a_message_too_large_does_not_break_the_channel() {
    let mut channel = sender(100);
    let mut out = BytesMut::new();
    channel.seal(b"", &[0; 20], &mut out).unwrap();
    let before = out.clone();
    assert!(matches!(channel.seal(b"", &vec![0; (16 << 20) + 1], &mut out), Err(SealError::LimitExceeded(_))));
    assert!(matches!(channel.seal(&[0; 9000], b"", &mut out), Err(SealError::LimitExceeded(_))));
    assert_eq!(out, before);
    channel.seal(b"", &[1; 20], &mut out).unwrap();
    channel.finish(&mut out).unwrap();
    assert_eq!(receive(&out).0, payloads(2));
}

/// A DEK from elsewhere: the channel says which block it needs one for, and goes on with it.
#[test]
fn a_channel_waits_for_its_dek() {
    let forge = Forge::to(&[key()]);
    let stream = [
        forge.envelope_bound(0, CHANNEL, b"", b"one", b"", b"greeting"),
        forge.follow_up(1, CHANNEL | LAST, b"", b"two", b"greeting"),
    ]
    .concat();
    let opener = Opener::new(Keyring::new());
    let mut receiver = ChannelOpener::new(opener, Role::Acceptor, b"greeting").waiting_for_deks();
    let mut input = BytesMut::from(&stream[..]);
    assert!(receiver.next(&mut input).unwrap().is_none());
    assert_eq!(receiver.needs_dek(&input).unwrap(), forge.block());
    assert!(receiver.next(&mut input).unwrap().is_none(), "it waits");
    receiver.supply(&mut input, &Dek::import(&forge.dek)).unwrap();
    assert_eq!(&receiver.next(&mut input).unwrap().unwrap().payload[..], b"one");
    assert_eq!(&receiver.next(&mut input).unwrap().unwrap().payload[..], b"two");
    receiver.end(&input).unwrap();
}

/// A forked child is another process: nothing that it seals leaves. Proves KEY-5.
#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_seals_nothing() {
    use nix::{
        sys::wait::{WaitStatus, waitpid},
        unistd::{ForkResult, fork},
    };
    let mut single = sealer(10);
    single.seal(b"", b"before").unwrap();
    let mut channel = sender(10);
    channel.seal(b"", b"before", &mut BytesMut::new()).unwrap();
    // The child calls nothing but the sealers and exits.
    #[allow(unsafe_code, reason = "there is no fork without it")]
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let mut out = BytesMut::new();
            let refused = single.seal(b"", b"child").is_err_and(|e| e == SealError::Forked)
                && channel.seal(b"", b"child", &mut out) == Err(SealError::Forked)
                && out.is_empty();
            unsafe { nix::libc::_exit(if refused { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0)),
    }
    assert!(single.seal(b"", b"after").is_ok());
}
