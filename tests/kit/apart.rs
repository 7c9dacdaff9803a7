//! The scenarios of messages apart from their block, of parts of a payload, and of armor (spec 4.5, 5.5, 12.5).

use super::{
    Forge, pad,
    scenarios::{ACCEPTOR, BINDING, CHANNEL, KEY, Kit, LAST, PADDED, PAYLOAD, Scenario, Way, forge, key, other, own, text},
    senders::{ALICE, BOB, kept, rewrapped},
    verifying_key,
};

/// Adds them.
pub fn add(kit: &mut Kit) {
    detached(kit);
    detached_refused(kit);
    parts(kit);
    parts_refused(kit);
    parts_of_signed(kit);
    armor(kit);
    armor_around(kit);
    armor_lines(kit);
    armor_cut(kit);
    ends_of_armor(kit);
}

fn alice(standing: &'static str) -> Option<(&'static str, [u8; 32])> {
    Some((standing, verifying_key(&ALICE)))
}

/// The message alone, without its block.
fn message(forge: &Forge, seq: u64, flags: u8, context: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let head = forge.head(seq, flags, context);
    [head.clone(), forge.segments(seq, &head, plaintext)].concat()
}

fn apart(scenario: &mut Scenario, block: Vec<u8>) -> &mut Scenario {
    (scenario.way, scenario.block) = (Way::Detached, Some(block));
    scenario
}

fn detached(kit: &mut Kit) {
    let forge = forge();
    let opens =
        |kit: &mut Kit, name: &str, shows: &str, of: (&Forge, Vec<u8>), payload: &[u8], standing: Option<&'static str>| {
            let scenario = apart(kit.opens(&format!("detached-{name}"), shows, of.1, b"ctx", payload), of.0.block());
            scenario.sender = standing.and_then(alice);
        };
    let plain = message(&forge, 0, 0, b"ctx", PAYLOAD);
    opens(kit, "message", "DET-1: a message that was kept apart from its block", (&forge, plain.clone()), PAYLOAD, None);
    let later = message(&forge, 1 << 40, 0, b"ctx", b"");
    opens(kit, "later", "DET-1: another one under the block", (&forge, later), b"", None);
    let padded = Forge { segment_log2: 12, ..forge.clone() };
    let of = (&padded, message(&padded, 3, PADDED, b"ctx", &pad(&text(9000), 9216)));
    opens(kit, "padded", "DET-1: padded, in segments", of, &text(9000), None);
    let signed = forge.clone().signed(&ALICE, b"");
    opens(kit, "signed", "DET-1: under a block that is signed", (&signed, plain.clone()), PAYLOAD, Some("verified"));
    let whole = forge.clone().signed_message(&ALICE, b"ctx", PAYLOAD);
    opens(kit, "signed-message", "DET-1: a proof that covers the message", (&whole, plain.clone()), PAYLOAD, Some("signed"));

    let mut moved = own(9);
    moved.slots = vec![moved.own_slot(&[0x46; 32], &key(), &moved.dek)];
    let shows = "RWP-1: a message under its block after a rewrap";
    opens(kit, "rewrapped", shows, (&moved, plain.clone()), PAYLOAD, None);
    let base = Forge { options: 0x15, ..Forge::to(&[other()]) };
    let proof = base.proof_by(&ALICE, &base.message_hash(0, b"ctx", PAYLOAD, b""));
    let passed_on = rewrapped(&base, &proof, vec![kept(&base, 0), base.own_slot(&[0x46; 32], &key(), &base.dek)]);
    let shows = "RWP-1: a signed message under its block after a rewrap";
    opens(kit, "signed-rewrapped", shows, (&passed_on, plain), PAYLOAD, Some("signed-rewrapped"));
    let bound = forge.envelope_bound(0, 0, b"ctx", PAYLOAD, b"", BINDING);
    let (block, bound) = bound.split_at(forge.block().len());
    let shows = "DET-1: a binding";
    apart(kit.opens("detached-bound", shows, bound.to_vec(), b"ctx", PAYLOAD), block.to_vec()).binding = BINDING.to_vec();
    let shows = "DET-1: a bound message without its binding";
    apart(kit.refuses("detached-bound-not", shows, bound.to_vec(), "tag", "tag"), block.to_vec());
    let segments = Forge { segment_log2: 12, ..forge };
    let bytes = message(&segments, 9, 0, b"ctx", &text(9000));
    let scenario = kit.opens("detached-part", "SEG-9: a part of a detached message", bytes, b"ctx", &text(9000)[4000..5000]);
    apart(scenario, segments.block()).range = Some((4000, 5000));
}

fn detached_refused(kit: &mut Kit) {
    let forge = Forge { segment_log2: 12, ..forge() };
    let (block, plain) = (forge.block(), message(&forge, 0, 0, b"ctx", PAYLOAD));
    let mut refuses = |name: &str, shows: &str, block: &[u8], message: &[u8], layer: &'static str, answer: &'static str| {
        let scenario = kit.refuses(&format!("detached-{name}"), shows, message.to_vec(), layer, answer);
        apart(scenario, block.to_vec());
    };
    let joined = [&block[..], &plain].concat();
    for (name, more) in [("byte", &[0][..]), ("newline", b"\n"), ("block", &block), ("message", &plain), ("head", &plain[..15])] {
        let shows = format!("DET-2: behind the block stands {name}");
        refuses(&format!("block-and-{name}"), &shows, &[&block, more].concat(), &plain, "end", "trailing");
    }
    refuses("joined-and-nothing", "DET-2: both in place of the block", &joined, b"", "end", "trailing");
    refuses("with-its-block", "HEAD-2: a message that begins with its block", &block, &joined, "head", "malformed");
    refuses("exchanged", "BLK-1: one in place of the other", &plain, &block, "block", "malformed");
    for (name, at) in [("first-byte", 1), ("preamble", 8), ("half", 80), ("mac", 121), ("last-byte", 152)] {
        let shows = "BLK-17: a block that is shorter than it says, beside its message";
        refuses(&format!("block-cut-{name}"), shows, &block[..at], &plain, "block", "truncated");
    }
    refuses("block-missing", "BLK-17: no block", b"", &plain, "block", "truncated");
    refuses("both-missing", "BLK-17: no block and no message", b"", b"", "block", "truncated");
    for (name, at) in [
        ("nothing", 0),
        ("seq", 7),
        ("segment-log2", 8),
        ("flags", 9),
        ("context-len", 11),
        ("context", 12),
        ("context-last", 14),
    ] {
        let shows = format!("DET-1: the message ends in {name}");
        refuses(&format!("cut-{name}"), &shows, &block, &plain[..at], "head", "truncated");
    }
    for (name, at) in [("prefix", 15), ("prefix-last", 18), ("ciphertext", 20), ("tag", 40), ("last-byte", plain.len() - 1)] {
        let shows = "DET-1: the message ends in a segment";
        refuses(&format!("cut-in-{name}"), shows, &block, &plain[..at], "segments", "truncated");
    }
    let long = message(&forge, 0, 0, b"ctx", &text(9000));
    refuses("final-missing", "DET-1: the final segment is missing", &block, &long[..15 + 2 * 4116], "segments", "truncated");
    for (name, more) in [("byte", &[0][..]), ("itself", &plain), ("block", &block)] {
        let bytes = [&plain, more].concat();
        refuses(&format!("trailing-{name}"), "SEG-8: bytes behind the message", &block, &bytes, "end", "trailing");
    }
    for (name, at, flip) in [
        ("seq", 7, 1),
        ("segment-log2", 8, 1),
        ("padded", 9, PADDED),
        ("context", 12, 1),
        ("ciphertext", 20, 1),
        ("tag", plain.len() - 1, 0x80),
    ] {
        let mut bytes = plain.clone();
        bytes[at] ^= flip;
        refuses(&format!("changed-{name}"), "DET-1: a changed message", &block, &bytes, "tag", "tag");
    }
    for (name, flags) in [("channel", CHANNEL), ("channel-last", CHANNEL | LAST), ("channel-acceptor", CHANNEL | ACCEPTOR)] {
        let bytes = message(&forge, 0, flags, b"", PAYLOAD);
        refuses(name, "CHN-2: a message of a channel, apart from its block", &block, &bytes, "head", "malformed");
    }
    for (name, flags, answer) in [("last", LAST, "malformed"), ("flag-5", 1 << 5, "unsupported")] {
        let bytes = message(&forge, 0, flags, b"", PAYLOAD);
        refuses(name, "HEAD-3, HEAD-4: a flag that cannot stand there", &block, &bytes, "head", answer);
    }
    let follow_up = forge.follow_up(1, CHANNEL, b"", PAYLOAD, b"");
    refuses("follow-up", "HEAD-2: a follow-up, which has no seq", &block, &follow_up, "head", "malformed");

    let salted = Forge { salt: [0x77; 16], ..forge.clone() };
    let salted = Forge { slots: vec![salted.slot(&key(), &salted.dek)], ..salted };
    refuses("other-salt", "DET-3: a block of the same DEK and another salt", &salted.block(), &plain, "tag", "tag");
    let keyed = Forge { dek: [0x77; 32], ..forge.clone() };
    let keyed = Forge { slots: vec![keyed.slot(&key(), &keyed.dek)], ..keyed };
    refuses("other-block", "DET-1: the block of another message", &keyed.block(), &plain, "tag", "tag");
    refuses("other-recipient", "DET-1: a block for somebody else", &Forge::to(&[other()]).block(), &plain, "key", "nokey");
    for (name, at, layer) in [("created-at", 20, "header_mac"), ("mac", 152, "header_mac"), ("wrapped-dek", 100, "key")] {
        let mut block = block.clone();
        block[at] ^= 1;
        let answer = if layer == "key" { "nokey" } else { layer };
        refuses(&format!("block-changed-{name}"), "KEY-1: a changed block, beside its message", &block, &plain, layer, answer);
    }
    let mut away = own(9);
    away.slots = vec![away.own_slot(&[0x46; 32], &other(), &away.dek)];
    refuses("rewrapped-away", "RWP-1: a rewrap that removed the reader", &away.block(), &plain, "key", "nokey");

    let signed = forge.clone().signed_message(&ALICE, b"ctx", PAYLOAD).block();
    let next = message(&forge, 1, 0, b"ctx", PAYLOAD);
    refuses("signed-seq-1", "HEAD-5: a second message under a block of one", &signed, &next, "head", "malformed");
    for (name, shows, payload, context) in [
        ("payload", "PRF-4: another message under a block of one", &b"attack at noon"[..], &b"ctx"[..]),
        ("context", "PRF-4: another context under a block of one", PAYLOAD, b"xtc"),
        ("empty", "PRF-4: an empty message under a block of one", b"", b"ctx"),
    ] {
        let bytes = message(&forge, 0, 0, context, payload);
        refuses(&format!("signed-other-{name}"), shows, &signed, &bytes, "proof", "proof");
    }
    let mut tag = plain.clone();
    *tag.last_mut().unwrap() ^= 1;
    refuses("signed-tag", "PRF-4: a tag that the proof covers", &signed, &tag, "proof", "proof");
    let stranger = forge.clone().signed(&BOB, b"").block();
    let scenario = kit.refuses("detached-stranger", "PRF-7: a block by somebody who is not listed", plain, "policy", "policy");
    apart(scenario, stranger).senders = Some((vec![verifying_key(&ALICE)], vec![]));
}

/// Three segments, the last of them short, and where each begins in the message.
fn long() -> (Forge, Vec<u8>, [usize; 3], Vec<u8>) {
    let forge = Forge { segment_log2: 12, ..forge() };
    let begin = forge.block().len() + 12;
    (forge.clone(), forge.envelope(0, 0, b"", &text(10_000)), [begin, begin + 4116, begin + 8232], text(10_000))
}

fn parts(kit: &mut Kit) {
    let (forge, bytes, at, payload) = long();
    for (name, shows, start, end) in [
        ("within", "SEG-9: within one segment", 4100, 4200),
        ("across", "SEG-9: the end of a segment and the beginning of the next", 4000, 4200),
        ("boundary", "SEG-9: one whole segment", 4096, 8192),
        ("empty", "SEG-10: nothing, in the middle", 5000, 5000),
        ("whole", "SEG-10: all of it", 0, 10_000),
        ("end", "SEG-10: the last byte", 9999, 10_000),
        ("over-end", "SEG-10: more than there is", 8000, 1 << 40),
        ("beyond", "SEG-10: what is not there", 1 << 40, 1 << 41),
    ] {
        let part = &payload[start.min(10_000)..end.min(10_000)];
        let scenario = kit.opens(&format!("part-{name}"), shows, bytes.clone(), b"", part);
        scenario.range = Some((start as u64, end as u64));
    }
    for (name, i, start, end) in [("middle", 1, 9000, 9100), ("middle-first-bytes", 1, 0, 4096)] {
        let mut changed = bytes.clone();
        changed[at[i] + 100] ^= 1;
        let shows = "SEG-9: a changed segment that is neither asked for nor the first nor the final one";
        let scenario =
            kit.opens(&format!("part-changed-elsewhere-{name}"), shows, changed, b"", &payload[start as usize..end as usize]);
        scenario.range = Some((start, end));
    }
    let full = forge.envelope(0, 0, b"ctx", &text(8192));
    kit.opens("part-full-final", "SEG-10: a final segment that is full", full, b"ctx", &text(8192)[8000..]).range =
        Some((8000, 9000));
    kit.opens("part-of-nothing", "SEG-10: an empty payload", forge.envelope(0, 0, b"", b""), b"", b"").range = Some((0, 10));
    // Padmé(8184 + 8) is 8,192: payload_len ends a full segment.
    for (name, len, padded, start, end) in [
        ("padded", 9000, 9216, 4090usize, 4100usize),
        ("padded-end", 9000, 9216, 8990, 9200),
        ("padded-beyond", 9000, 9216, 9001, 9100),
        ("padded-len-in-a-full-segment", 8184, 8192, 8000, 9000),
    ] {
        let bytes = forge.envelope(0, PADDED, b"", &pad(&text(len), padded));
        let scenario = kit.opens(
            &format!("part-{name}"),
            "PAD-4: the payload ends where payload_len says",
            bytes,
            b"",
            &text(len)[start.min(len)..end.min(len)],
        );
        scenario.range = Some((start as u64, end as u64));
    }
    let mut odd = pad(&text(9000), 9216);
    odd[9100] = 1;
    let bytes = forge.envelope(0, PADDED, b"", &odd);
    let shows = "PAD-4: padding that is not zero, to a reader of a part, who looks at the length alone";
    kit.opens("part-padding-not-zero", shows, bytes, b"", &text(9000)[10..20]).range = Some((10, 20));
    let bound = forge.envelope_bound(0, 0, b"", &payload, b"", BINDING);
    let scenario = kit.opens("part-bound", "SEG-9: a part under a binding", bound, b"", &payload[5000..5010]);
    (scenario.range, scenario.binding) = (Some((5000, 5010)), BINDING.to_vec());
    let signed = forge.signed(&ALICE, b"");
    let scenario =
        kit.opens("part-signed", "PRF-1: a part under a signed DEK", signed.envelope(0, 0, b"", &payload), b"", &payload[9000..]);
    (scenario.range, scenario.sender) = (Some((9000, 10_000)), alice("verified"));
}

fn parts_refused(kit: &mut Kit) {
    let (forge, bytes, at, payload) = long();
    let len = bytes.len();
    let mut refuses = |name: &str, shows: &str, bytes: Vec<u8>, range: (u64, u64), layer: &'static str, answer: &'static str| {
        let scenario = kit.refuses(&format!("part-{name}"), shows, bytes, layer, answer);
        scenario.range = Some(range);
    };
    let flip = |at: usize, bit: u8| {
        let mut bytes = bytes.clone();
        bytes[at] ^= bit;
        bytes
    };
    const FAR: (u64, u64) = (9000, 9010);
    const NONE: (u64, u64) = (5000, 5000);
    const MIDDLE: (u64, u64) = (5000, 5100);
    for (name, place) in [("ciphertext-first", 4), ("ciphertext-last", 4099), ("tag-first", 4100), ("tag-last", 4115)] {
        let shows = "SEG-9: segment 0 is changed, and the part is elsewhere";
        refuses(&format!("first-{name}"), shows, flip(at[0] + place, 1), FAR, "tag", "tag");
        let shows = "SEG-6: a changed segment in the part";
        refuses(&format!("middle-{name}"), shows, flip(at[1] + place, 1), MIDDLE, "tag", "tag");
    }
    for (name, place) in
        [("ciphertext-first", at[2] + 4), ("ciphertext-last", len - 17), ("tag-first", len - 16), ("tag-last", len - 1)]
    {
        let shows = "SEG-10: the final segment is changed, and the part is elsewhere";
        refuses(&format!("final-{name}"), shows, flip(place, 1), (10, 20), "tag", "tag");
    }
    for (name, place, range) in [("across-first", at[0] + 9, (4000, 5000)), ("across-second", at[1] + 9, (4000, 5000))] {
        refuses(name, "SEG-6: one of two segments of the part is changed", flip(place, 1), range, "tag", "tag");
    }
    for (name, place, range) in
        [("first", at[0] + 9, NONE), ("final", at[2] + 9, NONE), ("final-beyond", at[2] + 9, (20_000, 30_000))]
    {
        refuses(
            &format!("nothing-{name}"),
            "SEG-9, SEG-10: an empty part of what is changed",
            flip(place, 1),
            range,
            "tag",
            "tag",
        );
    }
    for (name, place, bit) in [("seq", 160, 1), ("padded", 162, PADDED)] {
        refuses(&format!("head-{name}"), "SEG-9: a changed head, and the part is elsewhere", flip(place, bit), FAR, "tag", "tag");
    }
    let mut context = forge.envelope(0, 0, b"ctx", &payload);
    context[166] ^= 1;
    refuses("head-context", "SEG-9: a changed context, and the part is elsewhere", context, FAR, "tag", "tag");
    let bound = forge.envelope_bound(0, 0, b"", &payload, b"", BINDING);
    refuses("binding-missing", "SEG-9: no binding, and the part is elsewhere", bound, FAR, "tag", "tag");

    for (name, cut) in [("all", at[0]), ("after-first", at[1]), ("final", at[2])] {
        let shows = "SEG-10: segments are missing, and the part is not in them";
        refuses(&format!("missing-{name}"), shows, bytes[..cut].to_vec(), (10, 20), "segments", "truncated");
    }
    for (name, cut) in [("prefix", at[2] + 2), ("ciphertext", at[2] + 100), ("tag", len - 10), ("last-byte", len - 1)] {
        let shows = "SEG-10: the final segment is cut, and the part is elsewhere";
        refuses(&format!("cut-{name}"), shows, bytes[..cut].to_vec(), (10, 20), "segments", "truncated");
    }
    for (name, cut) in [("first", at[0] + 50), ("first-prefix", at[0] + 3), ("second", at[1] + 2000)] {
        let shows = "SEG-10: the message is cut before its final segment";
        refuses(&format!("cut-{name}"), shows, bytes[..cut].to_vec(), (10, 20), "segments", "truncated");
    }
    let final_segment = bytes[at[2]..].to_vec();
    for (name, more) in [("byte", vec![0]), ("final-segment", final_segment)] {
        let shows = "SEG-10: bytes behind the final segment, and the part is elsewhere";
        refuses(&format!("appended-{name}"), shows, [&bytes[..], &more].concat(), (10, 20), "end", "trailing");
    }
    let filled = forge.envelope(0, 0, b"", &payload[..8192]);
    for (name, more) in [("byte", &[0][..]), ("prefix", &[0x80, 0, 0, 0x11])] {
        let shows = "SEG-10: bytes behind a final segment that is full, where another would begin, and the part is elsewhere";
        refuses(&format!("full-appended-{name}"), shows, [&filled[..], more].concat(), (10, 20), "segments", "truncated");
    }
    let mut cleared = filled.clone();
    cleared[at[1]] ^= 0x80;
    let shows = "SEG-10: an end that was made no end, of a final segment that is full";
    refuses("full-final-bit-cleared", shows, cleared, (10, 20), "segments", "truncated");
    let cleared = flip(at[2], 0x80);
    refuses("final-bit-cleared", "SEG-10: an end that was made no end", cleared, (10, 20), "segments", "malformed");
    let sealed = |ends: [bool; 2]| {
        let head = forge.head(0, 0, b"");
        let (a, b) = (forge.segment(0, 0, ends[0], &head, &payload[..4096]), forge.segment(0, 1, ends[1], b"", &payload[..4096]));
        [&bytes[..at[0]], &a, &b].concat()
    };
    let shows = "SEG-10: two segments that were both sealed as the final one";
    refuses("two-ends", shows, sealed([true, true]), (10, 20), "end", "trailing");
    refuses(
        "no-end",
        "SEG-10: two segments and none sealed as the final one",
        sealed([false, false]),
        (10, 20),
        "segments",
        "truncated",
    );
    let early = [&bytes[..at[1]], &[&[0x80][..], &bytes[at[1] + 1..at[2]]].concat()].concat();
    refuses("cut-and-marked", "SEG-10: a cut hidden by marking the segment before it final", early, (10, 20), "tag", "tag");
    let segments = [&bytes[at[0]..at[1]], &bytes[at[1]..at[2]], &bytes[at[2]..]];
    let with =
        |order: &[usize]| [&bytes[..at[0]], &order.iter().flat_map(|i| segments[*i].to_vec()).collect::<Vec<_>>()].concat();
    for (name, order, range) in [
        ("swapped", &[1, 0, 2][..], FAR),
        ("dropped-first", &[1, 2], FAR),
        ("dropped-second", &[0, 2], (10, 20)),
        ("repeated-first", &[0, 0, 1, 2], (10, 20)),
        ("repeated-second", &[0, 1, 1, 2], (10, 20)),
        ("final-alone", &[2], (10, 20)),
    ] {
        let shows = "SEG-9, SEG-10: segments that are not where they were sealed";
        refuses(&format!("segments-{name}"), shows, with(order), range, "tag", "tag");
    }
    let prefixed = |place: usize, word: u32| [&bytes[..place], &word.to_be_bytes(), &bytes[place + 4..]].concat();
    const FINAL: u32 = 1 << 31;
    for (name, place, word, range) in [
        ("first-short", at[0], 15, FAR),
        ("first-long", at[0], 4113, FAR),
        ("first-not-full", at[0], 4111, FAR),
        ("middle-short", at[1], 3, MIDDLE),
        ("middle-long", at[1], 4113, MIDDLE),
        ("middle-not-full", at[1], 4111, MIDDLE),
        ("final-short", at[2], FINAL | 15, (10, 20)),
        ("final-long", at[2], FINAL | 4113, (10, 20)),
    ] {
        let shows = "SEG-1, SEG-2, SEG-3: a length that no segment has there";
        refuses(&format!("prefix-{name}"), shows, prefixed(place, word), range, "segments", "malformed");
    }
    let says = FINAL | (len - at[2] - 4) as u32;
    for (name, word, layer, answer) in
        [("one-less", says - 1, "end", "trailing"), ("one-more", says + 1, "segments", "truncated")]
    {
        let shows = "SEG-10: the final segment says another length than is there";
        refuses(&format!("prefix-final-{name}"), shows, prefixed(at[2], word), (10, 20), layer, answer);
    }
    let full = forge.segment(0, 0, false, &forge.head(0, 0, b""), &payload[..4096]);
    let empty = [&bytes[..at[0]], &full, &forge.segment(0, 1, true, b"", b"")].concat();
    refuses("final-empty", "SEG-4: a final segment without plaintext", empty, (10, 20), "segments", "malformed");

    let padded = |plaintext: &[u8]| forge.envelope(0, PADDED, b"", plaintext);
    for (name, plaintext) in [
        ("none", text(10_000)),
        ("too-short", text(7)),
        ("empty", vec![]),
        ("one-more", pad(&text(9000), 9217)),
        ("next-length", pad(&text(9000), 9728)),
        ("length-in-two-segments", pad(&text(8000), 8195)),
        ("length-huge", [&text(9208)[..], &u64::MAX.to_be_bytes()].concat()),
        ("length-overflow", [&text(9208)[..], &(u64::MAX - 7).to_be_bytes()].concat()),
        ("length-little-endian", [&text(9208)[..], &9000u64.to_le_bytes()].concat()),
    ] {
        let shows = "PAD-2, PAD-3: padding that is not what the length gives, to a reader of a part";
        refuses(&format!("padding-{name}"), shows, padded(&plaintext), (0, 5), "content", "content");
    }
    let to_other = Forge { segment_log2: 12, ..Forge::to(&[other()]) };
    refuses(
        "not-a-recipient",
        "a part of a message for somebody else",
        to_other.envelope(0, 0, b"", &payload),
        FAR,
        "key",
        "nokey",
    );
    refuses("header-mac", "KEY-1: a part under a changed block", flip(140, 1), FAR, "header_mac", "header_mac");
    refuses("magic", "BLK-1: a part of what is no message", flip(0, 1), FAR, "block", "malformed");
    refuses("reserved-flag", "HEAD-3: a part under an unknown flag", flip(162, 0x20), FAR, "head", "unsupported");
    let channel = forge.envelope(0, CHANNEL, b"", &payload);
    refuses("channel", "CHN-2: a part of a message of a channel", channel, FAR, "head", "malformed");
    for log2 in [21u8, 24] {
        let wide = Forge { segment_log2: log2, ..forge.clone() }.envelope(0, 0, b"", PAYLOAD);
        let shows = "LIM-5: segments over the limit of readers that do not hold the message";
        refuses(&format!("segment-log2-{log2}"), shows, wide, (0, 5), "limit", "limit");
    }
    let stranger = forge.signed(&BOB, b"").envelope(0, 0, b"", &payload);
    let scenario = kit.refuses("part-stranger", "PRF-7: a part, by somebody who is not listed", stranger, "policy", "policy");
    (scenario.range, scenario.senders) = (Some(FAR), Some((vec![verifying_key(&ALICE)], vec![])));
}

/// Where a proof covers the message, all of it is verified before a part is released.
fn parts_of_signed(kit: &mut Kit) {
    let payload = text(10_000);
    let signed = Forge { segment_log2: 12, ..forge() }.signed_message(&ALICE, b"", &payload);
    let bytes = signed.envelope(0, 0, b"", &payload);
    let begin = signed.block().len() + 12;
    let scenario = kit.opens("part-of-signed", "PRF-8: a part of a signed message", bytes.clone(), b"", &payload[4000..5000]);
    (scenario.range, scenario.sender) = (Some((4000, 5000)), alice("signed"));
    for (name, place) in [("middle", 4116 + 50), ("final", 8232 + 50), ("last-byte", bytes.len() - begin - 1)] {
        for (where_, range) in [("elsewhere", (10, 20)), ("nothing", (5000, 5000))] {
            let mut changed = bytes.clone();
            changed[begin + place] ^= 1;
            let shows = "PRF-8: a changed segment of a signed message, and the part is elsewhere";
            kit.refuses(&format!("part-of-signed-{name}-{where_}"), shows, changed, "proof", "proof").range = Some(range);
        }
    }
    for (name, payload) in [("longer", text(10_001)), ("shorter", text(9999)), ("empty", vec![])] {
        let bytes = signed.envelope(0, 0, b"", &payload);
        let shows = "PRF-8: a message that a co-recipient wrote under a signed block";
        kit.refuses(&format!("part-of-signed-{name}"), shows, bytes, "proof", "proof").range = Some((10, 20));
    }
    for (name, place, range) in [("first", 50, (9000, 9100)), ("middle", 5000, (10, 20)), ("final", 9999, (10, 20))] {
        let mut payload = payload.clone();
        payload[place] ^= 1;
        let shows = "PRF-8: one byte changed by a co-recipient, outside the part";
        let scenario = kit.refuses(
            &format!("part-of-signed-{name}-rewritten"),
            shows,
            signed.envelope(0, 0, b"", &payload),
            "proof",
            "proof",
        );
        scenario.range = Some(range);
    }
    for (name, cut) in [("final-missing", begin + 8232), ("cut", begin + 5000), ("last-byte-missing", bytes.len() - 1)] {
        let shows = "PRF-8: a signed message that is cut";
        let scenario = kit.refuses(&format!("part-of-signed-{name}"), shows, bytes[..cut].to_vec(), "segments", "truncated");
        scenario.range = Some((10, 20));
    }
    let more = [&bytes[..], &[0]].concat();
    kit.refuses("part-of-signed-appended", "PRF-8: a byte behind a signed message", more, "end", "trailing").range =
        Some((10, 20));
}

const BEGIN: &str = "-----BEGIN SEALWIRE ENVELOPE-----\n";
const END: &str = "-----END SEALWIRE ENVELOPE-----\n";

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 of RFC 4648 §4, by hand.
pub fn base64(bytes: &[u8]) -> String {
    let four = |three: &[u8]| {
        let word = (0..3).fold(0usize, |word, i| word << 8 | usize::from(*three.get(i).unwrap_or(&0)));
        (0..4).map(move |i| if i <= three.len() { ALPHABET[word >> (18 - 6 * i) & 63] as char } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(four).collect()
}

/// The lines of an envelope's text, without their ends.
fn lines(bytes: &[u8]) -> Vec<String> {
    bytes.chunks(48).map(base64).collect()
}

fn enclosed(lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    format!("{BEGIN}{lines}{END}")
}

/// An envelope as text.
pub fn armored(bytes: &[u8]) -> String {
    enclosed(&lines(bytes))
}

/// An envelope of so many bytes modulo 48, and its payload.
fn sized(rest: usize) -> (Vec<u8>, Vec<u8>) {
    let len = (0..48).find(|len| forge().envelope(0, 0, b"", &text(*len)).len() % 48 == rest).unwrap();
    (forge().envelope(0, 0, b"", &text(len)), text(len))
}

fn armor(kit: &mut Kit) {
    let mut opens = |name: &str, shows: &str, bytes: String, payload: &[u8]| {
        kit.opens(&format!("armor-{name}"), shows, bytes.into_bytes(), b"", payload).way = Way::Armor;
    };
    let (bytes, payload) = sized(5);
    let good = armored(&bytes);
    opens("lf", "ARM-2: an envelope as text", good.clone(), &payload);
    opens("crlf", "ARM-2: CRLF", good.replace('\n', "\r\n"), &payload);
    opens("mixed-ends", "ARM-2: LF, and CRLF once", good.replacen('\n', "\r\n", 3).replacen("\r\n", "\n", 2), &payload);
    opens("no-last-newline", "ARM-2: none behind the last line", good.trim_end().into(), &payload);
    opens("crlf-no-last-newline", "ARM-2: CRLF, and none behind the last line", good.trim_end().replace('\n', "\r\n"), &payload);
    opens("blanks", "ARM-2: blanks before and behind", format!(" \t\n\x0c\r{good} \t\n\x0c\r"), &payload);
    opens("blanks-1024-before", "ARM-2: 1,024 blanks before", format!("{}{good}", " ".repeat(1024)), &payload);
    opens("blanks-1024-behind", "ARM-2: 1,024 blanks behind", format!("{good}{}", "\t".repeat(1024)), &payload);
    for rest in [0, 46, 47] {
        let (bytes, payload) = sized(rest);
        opens(&format!("last-line-of-{rest}"), "ARM-1: a last line of so many bytes over 48", armored(&bytes), &payload);
    }
    let long = Forge { segment_log2: 12, ..forge() }.envelope(0, 0, b"", &text(9000));
    opens("long", "ARM-1: nearly two hundred lines", armored(&long), &text(9000));
}

fn armor_around(kit: &mut Kit) {
    let (bytes, _) = sized(5);
    let good = armored(&bytes);
    let mut refuses = |name: &str, shows: &str, bytes: Vec<u8>| {
        kit.refuses(&format!("armor-{name}"), shows, bytes, "armor", "malformed").way = Way::Armor;
    };
    let text = good.as_bytes();
    for (name, around) in [
        ("nul", &b"\0"[..]),
        ("vertical-tab", b"\x0b"),
        ("escape", b"\x1b"),
        ("byte-order-mark", b"\xef\xbb\xbf"),
        ("no-break-space", b"\xc2\xa0"),
        ("next-line", b"\x85"),
        ("dash", b"-"),
        ("letter", b"a"),
        ("text", b"Dear reader,\n"),
        ("comment", b"# an envelope\n"),
        ("quote", b"> "),
    ] {
        refuses(&format!("{name}-before"), "ARM-2: something else before the text", [around, text].concat());
        refuses(&format!("{name}-behind"), "ARM-2: something else behind the text", [text, around].concat());
        let near = [text.trim_ascii_end(), around].concat();
        refuses(&format!("{name}-on-the-last-line"), "ARM-2: something else behind the last line's dashes", near);
    }
    for (name, blank) in [("space", " "), ("tab", "\t"), ("lf", "\n"), ("form-feed", "\x0c"), ("cr", "\r")] {
        let many = blank.repeat(1025);
        refuses(&format!("1025-{name}-before"), "ARM-2: 1,025 blanks before", format!("{many}{good}").into_bytes());
        refuses(&format!("1025-{name}-behind"), "ARM-2: 1,025 blanks behind a line's end", format!("{good}{many}").into_bytes());
    }
    refuses("1024-and-a-letter", "ARM-2: a letter behind 1,024 blanks", format!("{good}{}a", " ".repeat(1024)).into_bytes());
    refuses("twice", "ARM-2: two texts", good.repeat(2).into_bytes());
    refuses("twice-apart", "ARM-2: two texts and blanks between", format!("{good}\n\n{good}").into_bytes());
    refuses("end-twice", "ARM-2: the last line twice", format!("{good}{END}").into_bytes());
    refuses("begin-twice", "ARM-1: the first line twice", format!("{BEGIN}{good}").into_bytes());
    refuses("and-the-envelope", "ARM-2: the envelope behind its text", [text, &bytes].concat());
    refuses("bytes", "ARM-1: an envelope that is no text", bytes);

    for (name, label) in [
        ("message", "SEALWIRE MESSAGE"),
        ("block", "SEALWIRE DEK BLOCK"),
        ("pgp", "PGP MESSAGE"),
        ("certificate", "CERTIFICATE"),
        ("lower-case", "sealwire envelope"),
        ("no-space", "SEALWIREENVELOPE"),
        ("two-spaces", "SEALWIRE  ENVELOPE"),
        ("tab", "SEALWIRE\tENVELOPE"),
        ("longer", "SEALWIRE ENVELOPES"),
        ("shorter", "SEALWIRE ENVELOP"),
        ("none", ""),
    ] {
        let (begin, end) = (BEGIN.replace("SEALWIRE ENVELOPE", label), END.replace("SEALWIRE ENVELOPE", label));
        refuses(&format!("label-{name}"), "ARM-1: another label", good.replace(BEGIN, &begin).replace(END, &end).into_bytes());
        refuses(&format!("label-{name}-at-the-end"), "ARM-1: another label at the end", good.replace(END, &end).into_bytes());
    }
    for (name, from, to) in [
        ("four-dashes-first", "-----BEGIN", "----BEGIN"),
        ("six-dashes-first", "-----BEGIN", "------BEGIN"),
        ("four-dashes-then", BEGIN, "-----BEGIN SEALWIRE ENVELOPE----\n"),
        ("six-dashes-then", BEGIN, "-----BEGIN SEALWIRE ENVELOPE------\n"),
        ("blank-behind-begin", BEGIN, "-----BEGIN SEALWIRE ENVELOPE----- \n"),
        ("nothing-behind-begin", BEGIN, "-----BEGIN SEALWIRE ENVELOPE-----"),
        ("begin-lower-case", "BEGIN", "begin"),
        ("end-lower-case", "END", "end"),
        ("end-with-four-dashes", "-----END", "----END"),
        ("end-with-six-dashes", "-----END", "------END"),
        ("end-short-of-a-dash", END, "-----END SEALWIRE ENVELOPE----\n"),
        ("end-begins", "-----END", "-----BEGIN"),
        ("blank-before-end", "-----END", " -----END"),
    ] {
        refuses(name, "ARM-1: a first or a last line that is another", good.replace(from, to).into_bytes());
    }
}

fn armor_lines(kit: &mut Kit) {
    let (bytes, _) = sized(46);
    let all = lines(&bytes);
    let good = enclosed(&all);
    let last = all.len() - 1;
    let mut refuses = |name: &str, shows: &str, bytes: Vec<u8>| {
        kit.refuses(&format!("armor-{name}"), shows, bytes, "armor", "malformed").way = Way::Armor;
    };
    let with = |i: usize, line: String| enclosed(&[&all[..i], &[line], &all[i + 1..]].concat()).into_bytes();
    for i in [0, 1] {
        let (line, shows) = (&all[i], "ARM-1: a line before the last that is not of 64 characters");
        for cut in [1, 4, 60, 62, 63] {
            let moved = format!("{}\n{}", &line[..cut], &line[cut..]);
            refuses(&format!("line-{i}-broken-at-{cut}"), shows, with(i, moved));
        }
        refuses(&format!("line-{i}-shorter"), shows, with(i, line[..60].into()));
        refuses(&format!("line-{i}-longer"), shows, with(i, format!("{line}AAAA")));
        refuses(&format!("line-{i}-longer-by-one"), shows, with(i, format!("{line}A")));
        for (name, what) in [("=", "padded"), ("==", "padded-twice")] {
            let padded = format!("{}{name}", &line[..64 - name.len()]);
            refuses(&format!("line-{i}-{what}"), "ARM-1: padding before the last line", with(i, padded));
        }
        refuses(&format!("empty-line-{i}"), "ARM-1: an empty line", with(i, format!("\n{line}")));
        refuses(&format!("empty-line-of-cr-{i}"), "ARM-1: an empty line of CRLF", with(i, format!("\r\n{line}")));
        for (name, blank) in [("space", " "), ("tab", "\t"), ("cr", "\r"), ("form-feed", "\x0c")] {
            // A CR behind it would be the end of a line.
            if blank != "\r" {
                refuses(&format!("line-{i}-{name}-behind"), "ARM-1: a blank behind a line", with(i, format!("{line}{blank}")));
            }
            refuses(&format!("line-{i}-{name}-before"), "ARM-1: a blank before a line", with(i, format!("{blank}{line}")));
        }
    }
    refuses("all-in-one-line", "ARM-1: one line for all", enclosed(&[all.concat()]).into_bytes());
    let narrow: Vec<_> = bytes.chunks(45).map(base64).collect();
    refuses("lines-of-60", "ARM-1: lines of 60 characters", enclosed(&narrow).into_bytes());
    let wide: Vec<_> = bytes.chunks(57).map(base64).collect();
    refuses("lines-of-76", "ARM-1: lines of 76 characters", enclosed(&wide).into_bytes());
    refuses("empty-line-last", "ARM-1: an empty line before the end", good.replace(END, &format!("\n{END}")).into_bytes());
    refuses("one-empty-line", "ARM-1: nothing but an empty line", enclosed(&[String::new()]).into_bytes());
    let header = good.replace(BEGIN, &format!("{BEGIN}Version: 1\n\n"));
    refuses("header", "ARM-1: a header, as older PEM has it", header.into_bytes());
    let checksum = good.replace(END, &format!("=njUN\n{END}"));
    refuses("checksum", "ARM-1: a checksum, as OpenPGP has it", checksum.into_bytes());
    refuses("cr-for-lf", "ARM-2: CR for the end of a line", good.replace('\n', "\r").into_bytes());
    refuses("cr-cr-lf", "ARM-2: a CR too many", good.replace('\n', "\r\r\n").into_bytes());
    for byte in
        [0, 0x0b, 0x1b, b'-', b'_', b'!', b'*', b'.', b',', b'=', b'%', b'"', b'@', b'[', b'`', b'{', 0x7f, 0x80, 0xc3, 0xff]
    {
        let mut bytes = good.clone().into_bytes();
        bytes[BEGIN.len() + 20] = byte;
        refuses(&format!("character-{byte:02x}"), "ARM-1: a character that is not of the alphabet", bytes);
    }
    let utf_8 = with(0, format!("{}é{}", &all[0][..31], &all[0][33..]));
    refuses("character-utf-8", "ARM-1: a character that is not of the alphabet", utf_8);
    let wide_a = with(0, format!("{}Ａ{}", &all[0][..30], &all[0][33..]));
    refuses("character-full-width", "ARM-1: a letter that only looks like one of the alphabet", wide_a);

    // The last line carries 46 bytes, so two padding characters; those of 47 have one, of 45 none.
    let line = &all[last];
    assert!(line.len() == 64 && line.ends_with("=="));
    for (name, to) in [
        ("missing", &line[..62]),
        ("half-missing", &line[..63]),
        ("too-much", &format!("{line}=")),
        ("four", &format!("{}====", &line[..60])),
        ("three", &format!("{}===", &line[..61])),
        ("before-the-last-character", &format!("{}={}=", &line[..61], &line[61..62])),
        ("a-group-of-it", &format!("{}==\n====", &line[..62])),
        ("then-more", &format!("{}==\nAAAA", &line[..62])),
    ] {
        refuses(&format!("padding-{name}"), "ARM-1: padding that is missing or not needed", with(last, to.into()));
    }
    for name in [1, 2, 3] {
        let rest = "A".repeat(name);
        refuses(
            &format!("last-line-of-{name}-characters"),
            "ARM-1: a last line of fewer than 4 characters",
            with(last, format!("{}\n{rest}", base64(&[7; 48]))),
        );
    }
    let next = |c: u8, bits: usize| ALPHABET[ALPHABET.iter().position(|a| *a == c).unwrap() | bits] as char;
    for bit in [1, 2, 4, 8] {
        let changed = format!("{}{}==", &line[..61], next(line.as_bytes()[61], bit));
        refuses(&format!("last-bits-{bit}-of-four"), "ARM-1: bits of the last character that are not zero", with(last, changed));
    }
    let (one_padded, _) = sized(47);
    let mut front = lines(&one_padded);
    let line = front.pop().unwrap();
    let with = |line: String| enclosed(&[&front[..], &[line]].concat()).into_bytes();
    for bit in [1, 2] {
        let changed = format!("{}{}=", &line[..62], next(line.as_bytes()[62], bit));
        refuses(&format!("last-bits-{bit}-of-two"), "ARM-1: bits of the last character that are not zero", with(changed));
    }
    refuses("one-padding-missing", "ARM-1: padding that is missing", with(line[..63].into()));
    refuses("one-padding-too-much", "ARM-1: padding that is not needed", with(format!("{}==", &line[..63])));
    let (none_padded, _) = sized(45);
    let mut front = lines(&none_padded);
    let line = front.pop().unwrap();
    for padding in ["=", "==", "===", "===="] {
        let changed = enclosed(&[&front[..], &[format!("{line}{padding}")]].concat()).into_bytes();
        refuses(&format!("{}-padding-not-needed", padding.len()), "ARM-1: padding that is not needed", changed);
    }
}

fn armor_cut(kit: &mut Kit) {
    let (bytes, _) = sized(0);
    let good = armored(&bytes);
    let end = good.len() - END.len();
    for (name, at) in [
        ("begin-newline", BEGIN.len() - 1),
        ("first-line", BEGIN.len()),
        ("first-character", BEGIN.len() + 1),
        ("line", BEGIN.len() + 30),
        ("line-between-fours", BEGIN.len() + 32),
        ("line-newline", BEGIN.len() + 64),
        ("second-line", BEGIN.len() + 65),
        ("last-line", end - 3),
        ("last-line-between-fours", end - 5),
        ("last-line-newline", end - 1),
        ("end", end),
        ("end-first-dash", end + 1),
        ("end-label", end + 20),
        ("end-last-dash", good.len() - 2),
    ] {
        let scenario = kit.refuses(
            &format!("armor-cut-in-{name}"),
            "a text without its end",
            good.as_bytes()[..at].to_vec(),
            "armor",
            "truncated",
        );
        scenario.way = Way::Armor;
        if at >= BEGIN.len() {
            let crlf = good[..at].replace('\n', "\r\n").into_bytes();
            let name = format!("armor-crlf-cut-in-{name}");
            kit.refuses(&name, "a text without its end, of CRLF", crlf, "armor", "truncated").way = Way::Armor;
        }
    }
    let short = armored(&sized(5).0);
    let crlf = format!("{}\r", short[..short.len() - END.len()].trim_end().replace('\n', "\r\n")).into_bytes();
    let shows = "a text without its end, cut between CR and LF";
    kit.refuses("armor-cut-between-cr-and-lf", shows, crlf, "armor", "truncated").way = Way::Armor;
    let mut wrapped = |name: &str, shows: &str, bytes: &[u8], layer, answer| {
        let scenario = kit.refuses(&format!("armor-of-{name}"), shows, armored(bytes).into_bytes(), layer, answer);
        scenario.way = Way::Armor;
    };
    let mut tag = bytes.clone();
    *tag.last_mut().unwrap() ^= 1;
    wrapped("changed", "a right text of an envelope with a wrong tag", &tag, "tag", "tag");
    wrapped("trailing", "SEG-8: a right text of an envelope and a byte", &[&bytes[..], &[0]].concat(), "end", "trailing");
    wrapped("cut", "a right text of an envelope that is cut", &bytes[..bytes.len() - 1], "segments", "truncated");
    wrapped("block", "a right text of a block alone", &bytes[..153], "head", "truncated");
    wrapped("message", "BLK-1: a right text of a message without its block", &bytes[153..], "block", "malformed");
    wrapped("armor", "BLK-1: a right text of a text", good.as_bytes(), "block", "malformed");
    let scenario = kit.refuses("armor-of-another", "a right text for somebody else", good.clone().into_bytes(), "key", "nokey");
    (scenario.way, scenario.keys) = (Way::Armor, vec![[KEY[0] + 1; 32]]);
    kit.refuses("armor-as-bytes", "BLK-1: a text where an envelope is read", good.into_bytes(), "block", "malformed");
}

/// Where a text ends, and where it is cut.
fn ends_of_armor(kit: &mut Kit) {
    // ARM-2: blanks behind the text, and none but them behind its last line.
    let (bytes, payload) = sized(5);
    let good = armored(&bytes);
    for (name, blanks) in [("space", " ".to_owned()), ("tab-lf", "\t\n".into()), ("cr", "\r".into()), ("1024", " ".repeat(1024))]
    {
        let text = format!("{}{blanks}", good.trim_end()).into_bytes();
        let name = format!("armor-on-the-last-line-{name}");
        kit.opens(&name, "ARM-2: blanks behind the last line's dashes", text, b"", &payload).way = Way::Armor;
    }
    // 12.5: a text without its end is truncated.
    let mut cut = |name: &str, bytes: &[u8]| {
        let name = format!("armor-cut-{name}");
        kit.refuses(&name, "a text without its end", bytes.to_vec(), "armor", "truncated").way = Way::Armor;
    };
    cut("nothing", b"");
    cut("blanks", b"  \n");
    cut("first-dash", b"-");
    cut("begin", &good.as_bytes()[..12]);
    cut("begin-last-dash", &good.as_bytes()[..BEGIN.len() - 2]);
    let end = good.len() - END.len();
    cut("end-first-dash", &good.as_bytes()[..end + 1]);
    cut("end-label", &good.as_bytes()[..end + 20]);
    cut("end-last-dash", &good.as_bytes()[..good.len() - 2]);
    cut("cr-of-begin", format!("{}\r", BEGIN.trim_end()).as_bytes());
    cut("cr-of-a-full-line", format!("{}\r", &good[..BEGIN.len() + 64]).replace("-----\n", "-----\r\n").as_bytes());
    // 12.5: there is a last line, of 4 to 64 characters.
    let none = enclosed(&[]).into_bytes();
    kit.refuses("armor-no-line", "ARM-1: no line", none, "armor", "malformed").way = Way::Armor;
}
