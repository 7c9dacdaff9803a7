//! Suite 2: what differs from suite 1 is the AEAD, and the suite's number in every label.

use super::{
    Forge, batch, channel, pad, public,
    scenarios::{ACCEPTOR, BINDING, CHANNEL, Kit, LAST, PADDED, PAYLOAD, Way, chain, key, other, text},
    senders::{ALICE, alice},
};

const BATCH: u8 = 4;

fn forge() -> Forge {
    Forge::under(2, &[key()])
}

pub fn add(kit: &mut Kit) {
    envelopes(kit);
    changed(kit);
    channels(kit);
    apart(kit);
}

fn envelopes(kit: &mut Kit) {
    let mut opens = |name: &str, shows: &str, forge: &Forge, flags: u8, context: &[u8], plaintext: &[u8], payload: &[u8]| {
        kit.opens(&format!("aes-{name}"), shows, forge.envelope(0, flags, context, plaintext), context, payload);
    };
    for len in [0, 1, 15, 16, 17, 4095, 4096, 4097, 8193] {
        let forge = Forge { segment_log2: 12, ..forge() };
        opens(&format!("payload-{len}"), "suite 2: a payload of this length", &forge, 0, b"", &text(len), &text(len));
    }
    opens("context", "suite 2: a context of the longest kind", &forge(), 0, &[0xff; 8192], PAYLOAD, PAYLOAD);
    opens("padded", "suite 2: padding", &forge(), PADDED, b"", &pad(PAYLOAD, 22), PAYLOAD);
    let two = Forge::under(2, &[other(), key()]);
    opens("recipients", "suite 2: several recipients", &two, 0, b"ctx", PAYLOAD, PAYLOAD);
    for hints in [0, 2] {
        let mut own = Forge { options: hints | 8, enc: None, ..Forge::under(2, &[]) };
        own.slots = vec![own.own_slot(&[3; 32], &other(), &own.dek), own.own_slot(&[4; 32], &key(), &own.dek)];
        opens(&format!("own-enc-{hints}"), "suite 2: an enc for each slot", &own, 0, b"", PAYLOAD, PAYLOAD);
    }
    let last = forge().envelope(u64::MAX, 0, b"", PAYLOAD);
    kit.opens("aes-seq-last", "suite 2: the last sequence number", last, b"", PAYLOAD);
    let bound = forge().envelope_bound(0, 0, b"", PAYLOAD, b"", BINDING);
    kit.opens("aes-binding", "suite 2: a binding", bound.clone(), b"", PAYLOAD).binding = BINDING.to_vec();
    kit.refuses("aes-binding-missing", "suite 2: a bound message without its binding", bound, "tag", "tag");
    let signed = forge().signed(&ALICE, b"");
    kit.opens("aes-signed", "suite 2: a sender proof", signed.envelope(0, 0, b"", PAYLOAD), b"", PAYLOAD).sender =
        alice("verified");
    let message = forge().signed_message(&ALICE, b"ctx", PAYLOAD);
    kit.opens(
        "aes-signed-message",
        "suite 2: a proof of the message",
        message.envelope(0, 0, b"ctx", PAYLOAD),
        b"ctx",
        PAYLOAD,
    )
    .sender = alice("signed");
    let mut relabelled = Forge::under(1, &[key()]).signed(&ALICE, b"");
    relabelled.suite = 2;
    relabelled.slots = vec![relabelled.slot(&key(), &relabelled.dek)];
    let moved = relabelled.proof_by(&ALICE, b"");
    let stolen = Forge::under(1, &[key()]).proof_by(&ALICE, b"");
    relabelled.put(&super::Proof { signature: stolen.signature, ..moved });
    kit.refuses(
        "aes-proof-of-suite-1",
        "PRF-1: a signature over suite 1",
        relabelled.envelope(0, 0, b"", PAYLOAD),
        "proof",
        "proof",
    );
}

fn changed(kit: &mut Kit) {
    let one = Forge::under(1, &[key()]);
    for (from, to) in [(one.clone(), 2u8), (forge(), 1)] {
        let name = |what: &str| format!("aes-suite-{}-as-{to}-{what}", from.suite);
        let mut bytes = from.envelope(0, 0, b"", PAYLOAD);
        bytes[8] = to;
        kit.refuses(&name("alone"), "KEY-1: the suite's number is changed", bytes, "key", "nokey");
        // Whoever has the DEK makes the block whole again: the slot still is of the suite that it was made for.
        let other = Forge { suite: to, ..from.clone() };
        kit.refuses(&name("mac"), "WRAP: a slot of another suite", other.envelope(0, 0, b"", PAYLOAD), "key", "nokey");
        // The payload is that of the other suite, under one block that holds.
        let whole = Forge::under(to, &[key()]);
        let head = from.head(0, 0, b"");
        let mixed = [whole.block(), head.clone(), from.segments(0, &head, PAYLOAD)].concat();
        kit.refuses(&name("payload"), "a payload that the other suite sealed", mixed, "tag", "tag");
    }
    let whole = Forge { segment_log2: 12, ..forge() }.envelope(0, 0, b"ctx", &text(5000));
    let body = whole.len() - 4 - (5000 - 4096) - 16;
    for (name, at) in [
        ("seq", 153 + 7),
        ("context", 153 + 12),
        ("ciphertext", 153 + 15 + 4),
        ("tag", body - 1),
        ("second-ciphertext", body + 4),
        ("second-tag", whole.len() - 16),
        ("last-byte", whole.len() - 1),
    ] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x80;
        let shows = "SEG-6: suite 2: a changed bit of what is authenticated with a segment";
        kit.refuses(&format!("aes-changed-{name}"), shows, bytes, "tag", "tag");
    }
    for (name, at) in [("created-at", 20usize), ("salt", 36), ("mac", 152)] {
        let mut none = Forge { options: 0, ..Forge::under(2, &[]) };
        none.slots = vec![none.slot(&key(), &none.dek)];
        let mut bytes = none.envelope(0, 0, b"", PAYLOAD);
        bytes[at] ^= 1;
        let shows = "KEY-1: suite 2: a changed bit of the block";
        kit.refuses(&format!("aes-block-changed-{name}"), shows, bytes, "header_mac", "header_mac");
    }
    for (name, at) in [("enc", 37), ("wrapped-dek", 73), ("wrapped-tag", 120)] {
        let mut bytes = forge().envelope(0, 0, b"", PAYLOAD);
        bytes[at] ^= 1;
        kit.refuses(&format!("aes-slot-changed-{name}"), "suite 2: a changed bit of the slot", bytes, "key", "nokey");
    }
    let (swapped, prefix) = (Forge { segment_log2: 12, ..forge() }, 153 + 12);
    let bytes = swapped.envelope(0, 0, b"", &text(3 * 4096));
    let piece = 4 + 4096 + 16;
    let second_first = [&bytes[..prefix], &bytes[prefix + piece..prefix + 2 * piece], &bytes[prefix..prefix + piece]].concat();
    let shows = "SEG-6: suite 2: segments that are not where they were sealed";
    kit.refuses("aes-segments-swapped", shows, [&second_first, &bytes[prefix + 2 * piece..]].concat(), "tag", "tag");
    let mut dropped = bytes[..prefix + piece].to_vec();
    dropped[prefix] |= 0x80;
    kit.refuses("aes-end-cut", "SEG-6: suite 2: a segment made the last", dropped, "tag", "tag");
}

fn channels(kit: &mut Kit) {
    let epoch = |suite: u8, dek: u8| {
        let mut forge = Forge { dek: [dek; 32], salt: [dek; 16], ..Forge::under(suite, &[]) };
        forge.slots = vec![forge.slot(&key(), &forge.dek)];
        forge
    };
    for (name, before, after) in [("same", 2, 2), ("from-1", 1, 2), ("to-1", 2, 1)] {
        let (a, b) = (epoch(before, 0xa1), epoch(after, 0xb2));
        let good = [
            a.envelope_bound(0, CHANNEL, b"", b"zero", b"", BINDING),
            a.follow_up(1, CHANNEL, b"", b"one", BINDING),
            b.envelope_bound(2, CHANNEL, b"", b"two", &chain(&a), BINDING),
            b.follow_up(3, CHANNEL | BATCH | LAST, b"", &batch(&[b"three", b"", b"five"]), BINDING),
        ];
        let all: [&[u8]; 6] = [b"zero", b"one", b"two", b"three", b"", b"five"];
        let shows = "suite 2 on a channel, and a renewal that changes the suite";
        kit.channel(&format!("aes-channel-{name}"), shows, &good, &all, None);
        let unchained = [&good[..2], &[b.envelope_bound(2, CHANNEL, b"", b"two", b"", BINDING)]].concat();
        let shows = "CHN-7: a renewal that changes the suite and does not know the epoch before it";
        kit.channel(&format!("aes-channel-{name}-unchained"), shows, &unchained, &all[..2], Some(("tag", "tag")));
        let wrong = [&good[..3], &[a.follow_up(3, CHANNEL, b"", b"three", BINDING)]].concat();
        let shows = "a follow-up under the epoch before the renewal";
        kit.channel(&format!("aes-channel-{name}-old-epoch"), shows, &wrong, &all[..3], Some(("tag", "tag")));
    }
    let reply = epoch(2, 0xc3).signed(&ALICE, &channel(true, BINDING));
    let bytes = reply.envelope_bound(0, CHANNEL | ACCEPTOR | LAST, b"", b"re", b"", BINDING);
    let scenario = kit.opens("aes-channel-reply", "suite 2: the acceptor's side, signed", bytes, b"", b"re");
    (scenario.way, scenario.binding, scenario.sender) = (Way::Initiator, BINDING.to_vec(), alice("verified"));
}

fn apart(kit: &mut Kit) {
    let forge = Forge { segment_log2: 12, ..forge() };
    let message = forge.envelope(3, 0, b"row", &text(9000)).split_off(153);
    for (name, range) in [("whole", None), ("part", Some((4000, 5000))), ("end", Some((8999, 9000)))] {
        let (start, end) = range.unwrap_or((0, 9000));
        let payload = &text(9000)[start as usize..end as usize];
        let shows = "SEG-9, DET-1: suite 2: a message without its block";
        let scenario = kit.opens(&format!("aes-detached-{name}"), shows, message.clone(), b"row", payload);
        (scenario.way, scenario.block, scenario.range) = (Way::Detached, Some(forge.block()), range);
    }
    let block_of_1 = Forge::under(1, &[public(&super::scenarios::KEY)]).block();
    let shows = "a message of suite 2 beside a block of suite 1";
    let scenario = kit.refuses("aes-detached-block-of-suite-1", shows, message, "tag", "tag");
    (scenario.way, scenario.block) = (Way::Detached, Some(block_of_1));
}
