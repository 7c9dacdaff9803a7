//! The scenarios of sender proofs (spec 4.4, 6.5, 6.6, 9.2): who could have written, and what is no proof.

use curve25519_dalek::{EdwardsPoint, Scalar, constants::EIGHT_TORSION, edwards::CompressedEdwardsY};
use sha2::{Digest, Sha512};

use super::{
    Forge, Proof, channel,
    scenarios::{
        ACCEPTOR, BINDING, CHANNEL, KEY, Kit, LAST, PAYLOAD, Way, chain, external, first, forge, key, other, own, second, text,
    },
    verifying_key,
};

pub const ALICE: [u8; 32] = [0xa1; 32];
pub const BOB: [u8; 32] = [0xb0; 32];

/// Adds them.
pub fn add(kit: &mut Kit) {
    standings(kit);
    forgeries(kit);
    lenient(kit);
    messages(kit);
    channels(kit);
    policies(kit);
}

pub(super) fn alice(standing: &'static str) -> Option<(&'static str, [u8; 32])> {
    Some((standing, verifying_key(&ALICE)))
}

fn sealed(forge: &Forge) -> Vec<u8> {
    forge.envelope(0, 0, b"", PAYLOAD)
}

/// What a rewrap makes of a block: these slots, each with its enc, and the proof masked anew.
pub(super) fn rewrapped(old: &Forge, proof: &Proof, slots: Vec<Vec<u8>>) -> Forge {
    let mut new = Forge { options: old.options | 8, enc: None, slots, ..old.clone() };
    new.put(proof);
    new
}

/// A slot of a block with a shared enc as a rewrap keeps it.
pub(super) fn kept(old: &Forge, slot: usize) -> Vec<u8> {
    let slot = &old.slots[slot];
    [&slot[..4], &old.enc.unwrap(), &slot[4..]].concat()
}

fn standings(kit: &mut Kit) {
    let opens = |kit: &mut Kit, name: &str, shows: &str, forge: &Forge, standing| {
        kit.opens(name, shows, sealed(forge), b"", PAYLOAD).sender = alice(standing);
    };
    let alone = forge().signed(&ALICE, b"");
    opens(kit, "signed-for-one", "a DEK that was signed for one recipient: verified", &alone, "verified");
    kit.opens("signed-for-one-later", "another message under it", alone.envelope(7, 0, b"ctx", PAYLOAD), b"ctx", PAYLOAD)
        .sender = alice("verified");
    let group = Forge::to(&[key(), other()]).signed(&ALICE, b"");
    opens(kit, "signed-for-two", "a DEK that was signed for two recipients: group", &group, "group");
    let mut with_external = forge();
    with_external.externals.push(external(b"kms", b"k", b"blob"));
    opens(kit, "signed-beside-an-external", "one slot and one external: group", &with_external.signed(&ALICE, b""), "group");
    let mut own = own(9);
    own.slots.push(own.own_slot(&[0x45; 32], &key(), &own.dek));
    opens(kit, "signed-own-enc", "one slot with an enc of its own: verified", &own.signed(&ALICE, b""), "verified");
    let hintless = Forge { options: 0, ..forge() };
    let hintless = Forge { slots: vec![hintless.slot(&key(), &hintless.dek)], ..hintless };
    opens(kit, "signed-without-hints", "no hints: verified", &hintless.signed(&ALICE, b""), "verified");

    let base = Forge { options: forge().options | 4, ..forge() };
    let proof = base.proof_by(&ALICE, b"");
    let added = rewrapped(&base, &proof, vec![kept(&base, 0), base.own_slot(&[0x46; 32], &other(), &base.dek)]);
    opens(kit, "rewrapped-added", "a recipient was added: origin", &added, "origin");
    let two = Forge { options: group.options, proof: Vec::new(), ..group.clone() };
    let for_two = two.proof_by(&ALICE, b"");
    let mut removed = Forge { slots: vec![two.slots[0].clone()], ..two.clone() };
    removed.put(&for_two);
    opens(kit, "rewrapped-removed", "a recipient was removed, who could have written: origin", &removed, "origin");
    let victim = rewrapped(&base, &proof, vec![base.own_slot(&[0x46; 32], &key(), &base.dek)]);
    opens(kit, "rewrapped-to-one", "rewrapped to one reader alone, who is not the first: origin", &victim, "origin");
    let message = forge().signed_message(&ALICE, b"", PAYLOAD);
    opens(kit, "signed-message", "a signed message: signed", &message, "signed");
    let many = Forge::to(&[other(), key()]).signed_message(&ALICE, b"", PAYLOAD);
    opens(kit, "signed-message-for-two", "a signed message to two recipients: signed", &many, "signed");
}

fn refuses(kit: &mut Kit, name: &str, shows: &str, forge: &Forge) {
    kit.refuses(name, shows, sealed(forge), "proof", "proof");
}

fn forgeries(kit: &mut Kit) {
    let good = forge().signed(&ALICE, b"");
    for at in (0..128).step_by(2) {
        let part = ["key", "original", "r", "s"][at / 32];
        let mut bad = good.clone();
        bad.proof[at] ^= 1 << (at % 8);
        refuses(kit, &format!("proof-flip-{part}-{at:03}"), "PRF-1: a bit of the proof flipped by who has the DEK", &bad);
    }
    let mut flipped = sealed(&good);
    flipped[153 + 4] ^= 1;
    kit.refuses("proof-flip-outside", "a bit of the proof flipped by who has not", flipped, "header_mac", "header_mac");
    let base = Forge { options: 5, ..forge() };
    let proof = base.proof_by(&ALICE, b"");
    let forge_with = |proof: &Proof| {
        let mut forged = base.clone();
        forged.put(proof);
        forged
    };
    let by_bob = Proof { key: verifying_key(&BOB), ..proof.clone() };
    refuses(kit, "proof-of-another-key", "PRF-1: the key of somebody else above it", &forge_with(&by_bob));
    let moved = [
        ("salt", Forge { salt: [0x77; 16], ..base.clone() }),
        ("dek", Forge { dek: [0x77; 32], ..base.clone() }),
        ("created-at", Forge { created_at: base.created_at + 1, ..base.clone() }),
    ];
    for (what, forge) in moved {
        let slot = forge.slot(&key(), &forge.dek);
        let mut forge = Forge { slots: vec![slot], ..forge };
        // Everything else of the statement is as it was signed.
        forge.put(&proof);
        refuses(kit, &format!("proof-moved-{what}"), &format!("PRF-1: the proof of a block with another {what}"), &forge);
    }
    // A recipient who rewraps cannot claim that the recipients were always those.
    let mut misstated = rewrapped(&base, &proof, vec![base.own_slot(&[0x46; 32], &key(), &base.dek)]);
    misstated.put(&Proof { original: misstated.recipients_hash(), ..proof.clone() });
    refuses(kit, "proof-misstated-recipients", "PRF-1: original changed to the recipients after a rewrap", &misstated);
    // Under the mask of other recipients the proof reads as something else.
    let mut transplanted = Forge { options: 5, ..Forge::to(&[key(), other()]) };
    transplanted.proof = good.proof.clone();
    refuses(kit, "proof-not-masked-anew", "PRF-1: a slot added and the proof left as it was", &transplanted);
    let zero = Proof { key: [0; 32], original: [0; 32], signature: [0; 64] };
    refuses(kit, "proof-of-zeros", "PRF-2: nothing but zeros under the mask", &forge_with(&zero));
    let for_channel = base.clone().signed(&ALICE, &channel(false, b""));
    refuses(kit, "proof-of-a-channel", "PRF-3: a block that was signed for a channel", &for_channel);
    let for_message = base.clone().signed(&ALICE, &base.message_hash(0, b"", PAYLOAD, b""));
    refuses(kit, "proof-of-a-message-without-bit-4", "PRF-3: the proof of a message without its bit", &for_message);
    for (cut, shows) in [(64, "BLK-4: half a proof"), (0, "BLK-4: the bit of a proof and none")] {
        let short = Forge { proof: good.proof[..cut].to_vec(), ..good.clone() };
        kit.refuses(&format!("proof-of-{cut}-bytes"), shows, sealed(&short), "block", "malformed");
    }
    let unannounced = Forge { options: 1, ..good };
    kit.refuses("proof-without-its-bit", "BLK-4: a proof and no bit for it", sealed(&unannounced), "block", "malformed");
}

/// Signatures that verifiers of other kinds accept. Proves PRF-2.
fn lenient(kit: &mut Kit) {
    let base = Forge { options: 5, ..forge() };
    let original = base.recipients_hash();
    let message = base.statement(&original, b"");
    let order = |r: &EdwardsPoint, key: &[u8; 32]| {
        let hash = Sha512::new().chain_update(r.compress().0).chain_update(key).chain_update(&message).finalize();
        Scalar::from_bytes_mod_order_wide(&hash.into())
    };
    let with = |key: [u8; 32], r: EdwardsPoint, s: [u8; 32]| {
        let mut forged = base.clone();
        let signature = [r.compress().0, s].concat().try_into().unwrap();
        forged.put(&Proof { key, original, signature });
        forged
    };
    let (secret, nonce) = (Scalar::from_bytes_mod_order([0x31; 32]), Scalar::from_bytes_mod_order([0x32; 32]));
    let honest = EdwardsPoint::mul_base(&secret);
    let key = honest.compress().0;

    let r = EdwardsPoint::mul_base(&nonce);
    let s = nonce + order(&r, &key) * secret;
    let opens = with(key, r, s.to_bytes());
    kit.opens("proof-by-hand", "a signature made by hand, of the same scalars as those below", sealed(&opens), b"", PAYLOAD)
        .sender = Some(("verified", key));
    let l = Scalar::ZERO - Scalar::ONE;
    let mut high = s.to_bytes();
    let mut carry = 1u16;
    for (byte, l) in high.iter_mut().zip(l.to_bytes()) {
        carry += u16::from(*byte) + u16::from(l);
        *byte = carry as u8;
        carry >>= 8;
    }
    refuses(kit, "proof-s-too-large", "PRF-2: S and the order of the base point", &with(key, r, high));
    let small = EIGHT_TORSION[1];
    let mut weak = with(small.compress().0, r, nonce.to_bytes());
    // S·B = R + k·A needs k·A = 0: a point of order 8 and a k that it divides.
    for salt in 0..=255u8 {
        let mut candidate = Forge { salt: [salt; 16], ..base.clone() };
        candidate.slots = vec![candidate.slot(&super::public(&KEY), &candidate.dek)];
        let original = candidate.recipients_hash();
        let statement = candidate.statement(&original, b"");
        let hash =
            Sha512::new().chain_update(r.compress().0).chain_update(small.compress().0).chain_update(&statement).finalize();
        if Scalar::from_bytes_mod_order_wide(&hash.into()).to_bytes()[0].trailing_zeros() >= 3 {
            let signature = [r.compress().0, nonce.to_bytes()].concat().try_into().unwrap();
            candidate.put(&Proof { key: small.compress().0, original, signature });
            weak = candidate;
            break;
        }
    }
    refuses(kit, "proof-small-order-key", "PRF-2: a key of small order, under which anyone signs anything", &weak);
    let identity = EIGHT_TORSION[0];
    let no_r = order(&identity, &key) * secret;
    refuses(kit, "proof-small-order-r", "PRF-2: an R of small order", &with(key, identity, no_r.to_bytes()));
    // Holds with the cofactor and not without it.
    let mixed = (1..8).map(|i| honest + EIGHT_TORSION[i]).find(|mixed| {
        let k = order(&r, &mixed.compress().0);
        r + mixed * k != r + honest * k
    });
    let mixed = mixed.unwrap().compress().0;
    let s = nonce + order(&r, &mixed) * secret;
    refuses(
        kit,
        "proof-needs-the-cofactor",
        "PRF-2: a signature that holds with the cofactor alone",
        &with(mixed, r, s.to_bytes()),
    );
    // y + p for the first y whose point exists and is not of small order.
    let mut p = [0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let odd = (2..19u8).map(|y| {
        let mut bytes = p;
        bytes[0] += y;
        bytes
    });
    let odd = odd.into_iter().find(|bytes| CompressedEdwardsY(*bytes).decompress().is_some_and(|p| !p.is_small_order())).unwrap();
    refuses(kit, "proof-key-not-canonical", "PRF-2: a key whose y is over the prime", &with(odd, r, s.to_bytes()));
    let no_point = (2..=255u8).map(|y| [[y; 1].to_vec(), vec![0; 31]].concat().try_into().unwrap());
    let no_point = no_point.into_iter().find(|bytes| CompressedEdwardsY(*bytes).decompress().is_none()).unwrap();
    refuses(kit, "proof-key-no-point", "PRF-2: a key that is no point", &with(no_point, r, s.to_bytes()));
}

fn messages(kit: &mut Kit) {
    let large = text(9000);
    let forge12 = Forge { segment_log2: 12, ..forge() };
    let good = forge12.clone().signed_message(&ALICE, b"ctx", &large);
    kit.opens(
        "signed-message-segments",
        "three segments under one signature",
        good.envelope(0, 0, b"ctx", &large),
        b"ctx",
        &large,
    )
    .sender = alice("signed");
    let bound = {
        let base = Forge { options: 0x15, ..forge() };
        let covers = base.message_hash(0, b"", PAYLOAD, b"bound");
        base.signed(&ALICE, &covers)
    };
    let bytes = bound.envelope_bound(0, 0, b"", PAYLOAD, b"", b"bound");
    let scenario = kit.opens("signed-message-binding", "a signature over a binding", bytes, b"", PAYLOAD);
    (scenario.binding, scenario.sender) = (b"bound".to_vec(), alice("signed"));
    let base = Forge { options: 0x15, ..forge() };
    let proof = base.proof_by(&ALICE, &base.message_hash(0, b"", PAYLOAD, b""));
    let added = rewrapped(&base, &proof, vec![base.own_slot(&[0x46; 32], &other(), &base.dek), kept(&base, 0)]);
    kit.opens("signed-message-rewrapped", "recipients changed: signed, and passed on", sealed(&added), b"", PAYLOAD).sender =
        alice("signed-rewrapped");

    let cases: [(&str, &str, Vec<u8>); 4] = [
        ("context", "a co-recipient who changes the context", good.envelope(0, 0, b"xtc", &large)),
        ("payload", "a co-recipient who writes another payload", good.envelope(0, 0, b"ctx", &text(9001)[1..])),
        ("shorter", "a co-recipient who cuts the payload", good.envelope(0, 0, b"ctx", &large[..8192])),
        ("padded", "a co-recipient who sets a flag", good.envelope(0, 2, b"ctx", &super::pad(&large, 9216))),
    ];
    for (name, shows, bytes) in cases {
        kit.refuses(&format!("signed-message-other-{name}"), &format!("PRF-4: {shows}"), bytes, "proof", "proof");
    }
    let mut tag = good.envelope(0, 0, b"ctx", &large);
    *tag.last_mut().unwrap() ^= 1;
    kit.refuses("signed-message-tag", "ERR-2: a wrong tag under a signature that covers it", tag, "proof", "proof");
    let mut unbound = bound.clone();
    unbound.segment_log2 = 16;
    let bytes = unbound.envelope_bound(0, 0, b"", PAYLOAD, b"", b"other");
    let scenario =
        kit.refuses("signed-message-other-binding", "PRF-4: a signature over another binding", bytes, "proof", "proof");
    scenario.binding = b"other".to_vec();
    // The whole message of another block under the same DEK, and the old block over a new message.
    let old = base.clone().signed_message(&ALICE, b"", b"an older message");
    kit.refuses("signed-message-old-block", "PRF-4: an old block over a new message", sealed(&old), "proof", "proof");
    let dek_kind = forge().signed(&ALICE, b"");
    let mut upgraded = Forge { options: 0x15, ..dek_kind.clone() };
    upgraded.put(&Forge { options: 5, ..forge() }.proof_by(&ALICE, b""));
    refuses(kit, "signed-message-from-a-dek-proof", "PRF-3: the proof of a DEK with the bit of a message", &upgraded);
    let message = forge().signed_message(&ALICE, b"", PAYLOAD);
    kit.refuses("signed-message-seq-1", "HEAD-5: seq 1", message.envelope(1, 0, b"", PAYLOAD), "head", "malformed");
    let mut unsigned = Forge { options: 0x15, ..forge() };
    unsigned.proof = vec![0; 128];
    refuses(kit, "signed-message-no-signature", "PRF-1: the bits of a signed message and no signature", &unsigned);
}

fn channels(kit: &mut Kit) {
    let mine = channel(false, BINDING);
    let (a, b) = (first().signed(&ALICE, &mine), second().signed(&ALICE, &mine));
    let epochs = |a: &Forge, b: &Forge| {
        vec![
            a.envelope_bound(0, CHANNEL, b"", b"zero", b"", BINDING),
            a.follow_up(1, CHANNEL, b"", b"one", BINDING),
            b.envelope_bound(2, CHANNEL, b"", b"two", &chain(a), BINDING),
            b.follow_up(3, CHANNEL | LAST, b"", b"three", BINDING),
        ]
    };
    kit.channel("signed-channel", "a proof in every epoch", &epochs(&a, &b), &[b"zero", b"one", b"two", b"three"], None);
    kit.all.last_mut().unwrap().sender = alice("verified");
    let reply = first().signed(&ALICE, &channel(true, BINDING));
    let bytes = reply.envelope_bound(0, CHANNEL | ACCEPTOR | LAST, b"", b"re", b"", BINDING);
    let scenario = kit.opens("signed-channel-of-the-acceptor", "PRF-3: the acceptor's proof says so", bytes, b"", b"re");
    (scenario.way, scenario.binding, scenario.sender) = (Way::Initiator, BINDING.to_vec(), alice("verified"));

    let proof = Some(("proof", "proof"));
    let one = |forge: &Forge, flags: u8| forge.envelope_bound(0, CHANNEL | LAST | flags, b"", b"zero", b"", BINDING);
    kit.channel(
        "signed-channel-by-a-message",
        "PRF-3: a block that was signed for no channel",
        &[one(&first().signed(&ALICE, b""), 0)],
        &[],
        proof,
    );
    let other_role = first().signed(&ALICE, &channel(true, BINDING));
    kit.channel("signed-channel-other-role", "PRF-3: the other side's proof", &[one(&other_role, 0)], &[], proof);
    let elsewhere = first().signed(&ALICE, &channel(false, b"another connection"));
    kit.channel("signed-channel-other-binding", "PRF-3: the proof of another connection", &[one(&elsewhere, 0)], &[], proof);
    let message = Forge { options: 0x15, ..first() }.signed(&ALICE, &mine);
    kit.channel(
        "signed-channel-bit-4",
        "HEAD-5: a proof of one message on a channel",
        &[one(&message, 0)],
        &[],
        Some(("head", "malformed")),
    );

    let two: [&[u8]; 2] = [b"zero", b"one"];
    let renewals = [
        ("other-sender", "CHN-6: another sender", first().signed(&ALICE, &mine), second().signed(&BOB, &mine)),
        ("no-sender", "CHN-6: no sender after one", first().signed(&ALICE, &mine), second()),
        ("new-sender", "CHN-6: a sender after none", first(), second().signed(&ALICE, &mine)),
    ];
    for (name, shows, a, b) in renewals {
        kit.channel(&format!("signed-channel-renewal-{name}"), shows, &epochs(&a, &b), &two, proof);
    }
    let wider = Forge { slots: vec![second().slots[0].clone(), second().slot(&other(), &second().dek)], ..second() };
    let wider = wider.signed(&ALICE, &mine);
    kit.channel("signed-channel-renewal-standing", "CHN-6: another standing", &epochs(&a, &wider), &two, proof);
    let forged = second().signed(&ALICE, &channel(false, b"another connection"));
    kit.channel(
        "signed-channel-renewal-proof",
        "PRF-3: a renewal with the proof of another connection",
        &epochs(&a, &forged),
        &two,
        proof,
    );
}

fn policies(kit: &mut Kit) {
    let alone = forge().signed(&ALICE, b"");
    let group = Forge::to(&[key(), other()]).signed(&ALICE, b"");
    let base = Forge { options: 5, ..forge() };
    let origin = rewrapped(&base, &base.proof_by(&ALICE, b""), vec![base.own_slot(&[0x46; 32], &key(), &base.dek)]);
    let message = Forge::to(&[key(), other()]).signed_message(&ALICE, b"", PAYLOAD);
    let base = Forge { options: 0x15, ..forge() };
    let proof = base.proof_by(&ALICE, &base.message_hash(0, b"", PAYLOAD, b""));
    let passed_on = rewrapped(&base, &proof, vec![kept(&base, 0), base.own_slot(&[0x46; 32], &other(), &base.dek)]);
    let cases = [
        ("verified", &alone, true),
        ("signed", &message, true),
        ("group", &group, false),
        ("origin", &origin, false),
        ("signed-rewrapped", &passed_on, false),
    ];
    for (standing, forge, usual) in cases {
        let listed = |accept: &[&'static str]| Some((vec![verifying_key(&BOB), verifying_key(&ALICE)], accept.to_vec()));
        let accept: &[&'static str] = if usual { &[] } else { &[standing] };
        let shows = format!("PRF-7: {standing}, of a sender in the list");
        let scenario = kit.opens(&format!("senders-{standing}"), &shows, sealed(forge), b"", PAYLOAD);
        (scenario.sender, scenario.senders) = (alice(standing), listed(accept));
        if !usual {
            let name = format!("senders-{standing}-not-accepted");
            kit.refuses(&name, &shows, sealed(forge), "policy", "policy").senders = listed(&[]);
        }
        let stranger = kit.refuses(
            &format!("senders-{standing}-stranger"),
            "PRF-7: a sender who is not in the list",
            sealed(forge),
            "policy",
            "policy",
        );
        stranger.senders = Some((vec![verifying_key(&BOB)], vec![standing]));
    }
    let nobody = kit.refuses(
        "senders-anonymous",
        "PRF-7: no proof where senders are listed",
        sealed(&super::scenarios::forge()),
        "policy",
        "policy",
    );
    nobody.senders = Some((vec![verifying_key(&ALICE)], vec![]));
    // A key that is not the reader's: who sent it is never looked at.
    let foreign = kit.refuses(
        "senders-no-key",
        "PRF-7: a listed sender, to somebody else",
        sealed(&Forge::to(&[other()]).signed(&ALICE, b"")),
        "key",
        "nokey",
    );
    foreign.senders = Some((vec![verifying_key(&ALICE)], vec![]));
    // The list is asked before the proof: what it refuses need not be verified.
    let mut bad = forge().signed(&ALICE, b"");
    bad.proof[70] ^= 1;
    let both =
        kit.refuses("senders-before-proof", "ERR-2: not in the list, and no proof either", sealed(&bad), "policy", "policy");
    both.senders = Some((vec![verifying_key(&BOB)], vec![]));
    let mut tag = sealed(&alone);
    *tag.last_mut().unwrap() ^= 1;
    let stranger = kit.refuses("senders-before-tags", "ERR-2: not in the list, and a wrong tag", tag, "policy", "policy");
    stranger.senders = Some((vec![verifying_key(&BOB)], vec![]));
}
