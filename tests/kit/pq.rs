//! Suites 3 and 4: X-Wing slots, written with the crate `x-wing`. What follows a slot is as under suites 1 and 2.

use sha2::{Digest, Sha256};
use x_wing::{
    Decapsulate, DecapsulationKey, Decapsulator, EncapsulationKey, KeyExport,
    kem::{KeyInit, TryKeyInit},
};

use super::{
    Forge, batch, channel, pad,
    scenarios::{ACCEPTOR, BINDING, CHANNEL, KEY, Kit, LAST, OTHER, PADDED, PAYLOAD, Way, chain, key, text},
    senders::{ALICE, alice},
    wrap_under,
};

const BATCH: u8 = 4;
const ENC: usize = 1120;
/// Where the first slot's enc stands in an envelope, and in it X25519's half.
const ENC_AT: usize = 37 + 4;
const X25519_AT: usize = ENC_AT + 1088;
/// A block with one slot.
const BLOCK: usize = 69 + 1172;

pub fn secret(seed: &[u8; 32]) -> DecapsulationKey {
    DecapsulationKey::new(seed.into())
}

/// The public key of a seed.
pub fn public(seed: &[u8; 32]) -> [u8; 1216] {
    secret(seed).encapsulation_key().to_bytes().into()
}

/// What a sender sends whose 64 random bytes are all `random`.
pub fn enc(to: &[u8; 1216], random: u8) -> [u8; ENC] {
    EncapsulationKey::new(to.into()).unwrap().encapsulate_deterministic(&[random; 64].into()).0.into()
}

pub fn fingerprint(to: &[u8; 1216]) -> [u8; 32] {
    Sha256::digest([b"sealwire v1 key\x64\x7a", &to[..]].concat()).into()
}

impl Forge {
    /// Suite 3 or 4, rotating hints, these seeds' keys, each with its own enc.
    pub fn pq(suite: u8, seeds: &[[u8; 32]]) -> Self {
        let mut forge = Self { enc: None, ..Self::under(suite, &[]) };
        forge.slots = (1..).zip(seeds).map(|(i, seed)| forge.pq_slot(seed, &enc(&public(seed), i))).collect();
        forge
    }

    /// The slot that the owner of `seed` unwraps with what he decapsulates from `enc`, wherever that comes from.
    pub fn pq_slot(&self, seed: &[u8; 32], enc: &[u8; ENC]) -> Vec<u8> {
        self.pq_slot_with(seed, enc, &self.dek)
    }

    pub fn pq_slot_with(&self, seed: &[u8; 32], enc: &[u8; ENC], dek: &[u8; 32]) -> Vec<u8> {
        let shared = secret(seed).decapsulate(enc.into());
        let fingerprint = fingerprint(&public(seed));
        let hint: [u8; 4] = match self.options & 3 {
            0 => [0; 4],
            1 => Sha256::digest([&b"sealwire v1 hint"[..], &self.salt, &fingerprint].concat())[..4].try_into().unwrap(),
            _ => fingerprint[..4].try_into().unwrap(),
        };
        [&hint[..], enc, &wrap_under(self.suite, &shared, dek)].concat()
    }
}

/// The ML-KEM half of one enc, and the X25519 half of another.
pub fn joined(ml_kem: &[u8; ENC], x25519: &[u8; 32]) -> [u8; ENC] {
    [&ml_kem[..1088], x25519].concat().try_into().unwrap()
}

fn x25519_of(enc: &[u8; ENC]) -> [u8; 32] {
    *enc.last_chunk().unwrap()
}

pub fn add(kit: &mut Kit) {
    opens(kit);
    refuses(kit, 3);
    refuses(kit, 4);
    halves(kit);
    channels(kit);
    apart(kit);
}

fn opens(kit: &mut Kit) {
    let mut opens = |name: &str, shows: &str, forge: &Forge, flags: u8, context: &[u8], plaintext: &[u8], payload: &[u8]| {
        let bytes = forge.envelope(0, flags, context, plaintext);
        kit.opens(&format!("pq-{}-{name}", forge.suite), shows, bytes, context, payload);
    };
    let segments = Forge { segment_log2: 12, ..Forge::pq(3, &[KEY]) };
    opens("segments", "suite 3: two segments", &segments, 0, b"", &text(4097), &text(4097));
    opens("recipients", "suite 3: two recipients", &Forge::pq(3, &[OTHER, KEY]), 0, b"", PAYLOAD, PAYLOAD);
    opens("padded", "suite 4: padding and a context", &Forge::pq(4, &[KEY]), PADDED, b"ctx", &pad(PAYLOAD, 22), PAYLOAD);
    for (suite, hints) in [(3, 0), (4, 2)] {
        let mut hinted = Forge { options: hints, ..Forge::pq(suite, &[]) };
        hinted.slots = vec![hinted.pq_slot(&KEY, &enc(&public(&KEY), 9))];
        opens(&format!("hints-{hints}"), "X-Wing with another hint mode", &hinted, 0, b"", PAYLOAD, PAYLOAD);
    }
    let signed = Forge::pq(3, &[KEY]).signed(&ALICE, b"").envelope(0, 0, b"", PAYLOAD);
    let shows = "suite 3: a sender proof, which is a classical one";
    kit.opens("pq-3-signed", shows, signed, b"", PAYLOAD).sender = alice("verified");
    let message = Forge::pq(4, &[KEY]).signed_message(&ALICE, b"", PAYLOAD).envelope(0, 0, b"", PAYLOAD);
    kit.opens("pq-4-signed-message", "suite 4: a proof of the message", message, b"", PAYLOAD).sender = alice("signed");
}

fn refuses(kit: &mut Kit, suite: u8) {
    let forge = Forge::pq(suite, &[KEY]);
    let good = forge.envelope(0, 0, b"ctx", PAYLOAD);
    for (name, at, layer, answer) in [
        ("created-at", 20, "header_mac", "header_mac"),
        ("salt", 36, "key", "nokey"),
        ("hint", ENC_AT - 1, "key", "nokey"),
        ("ml-kem-first", ENC_AT, "key", "nokey"),
        ("ml-kem-middle", ENC_AT + 544, "key", "nokey"),
        ("ml-kem-last", X25519_AT - 1, "key", "nokey"),
        ("x25519-first", X25519_AT, "key", "nokey"),
        ("x25519-last", X25519_AT + 31, "key", "nokey"),
        ("wrapped-dek", X25519_AT + 32, "key", "nokey"),
        ("wrapped-tag", X25519_AT + 79, "key", "nokey"),
        ("mac", BLOCK - 1, "header_mac", "header_mac"),
        ("seq", BLOCK + 7, "tag", "tag"),
        ("context", BLOCK + 12, "tag", "tag"),
        ("ciphertext", BLOCK + 19, "tag", "tag"),
        ("tag", good.len() - 1, "tag", "tag"),
    ] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let shows = format!("suite {suite}: a changed bit");
        kit.refuses(&format!("pq-{suite}-changed-{name}"), &shows, bytes, layer, answer);
    }
    // The top bit is not used by the curve, and counts all the same.
    let mut top = good.clone();
    top[X25519_AT + 31] ^= 0x80;
    let shows = format!("WRAP-4: suite {suite}: an unused bit of X25519's half is authenticated");
    kit.refuses(&format!("pq-{suite}-changed-unused-bit"), &shows, top, "key", "nokey");
    let other = 7 - suite;
    let mut number = good.clone();
    number[8] = other;
    kit.refuses(&format!("pq-{suite}-as-{other}"), "the suite's number is changed", number, "key", "nokey");
    let relabelled = Forge { suite: other, ..forge.clone() }.envelope(0, 0, b"", PAYLOAD);
    let shows = "a slot of another suite under a block that holds";
    kit.refuses(&format!("pq-{suite}-as-{other}-mac"), shows, relabelled, "key", "nokey");
    let head = forge.head(0, 0, b"");
    let mixed = [forge.block(), head.clone(), Forge::pq(other, &[KEY]).segments(0, &head, PAYLOAD)].concat();
    let shows = "a payload that another suite sealed";
    kit.refuses(&format!("pq-{suite}-payload-of-{other}"), shows, mixed, "tag", "tag");
    let stranger = Forge::pq(suite, &[OTHER]).envelope(0, 0, b"", PAYLOAD);
    kit.refuses(&format!("pq-{suite}-not-for-us"), "none of the keys", stranger, "key", "nokey");
    let slots = vec![forge.pq_slot_with(&KEY, &enc(&public(&KEY), 3), &[7; 32])];
    let wrong = Forge { slots, ..forge.clone() }.envelope(0, 0, b"", PAYLOAD);
    kit.refuses(&format!("pq-{suite}-other-dek"), "KEY-2: a slot with another DEK", wrong, "header_mac", "header_mac");
    let bound = forge.envelope_bound(0, 0, b"", PAYLOAD, b"", BINDING);
    let shows = "a bound message without its binding";
    kit.refuses(&format!("pq-{suite}-binding-missing"), shows, bound, "tag", "tag");
    let cut = good[..BLOCK - 1].to_vec();
    kit.refuses(&format!("pq-{suite}-cut"), "BLK-17: the input ends in the block", cut, "block", "truncated");
    signed(kit, suite, &forge);
    segments(kit, suite);
}

fn signed(kit: &mut Kit, suite: u8, forge: &Forge) {
    let stolen = Forge::pq(7 - suite, &[KEY]).proof_by(&ALICE, b"");
    let mut moved = forge.clone().signed(&ALICE, b"");
    let proof = super::Proof { signature: stolen.signature, ..moved.proof_by(&ALICE, b"") };
    moved.put(&proof);
    let bytes = moved.envelope(0, 0, b"", PAYLOAD);
    kit.refuses(&format!("pq-{suite}-proof-of-another"), "PRF-1: a signature over another suite", bytes, "proof", "proof");
    let mut bytes = forge.clone().signed_message(&ALICE, b"", PAYLOAD).envelope(0, 0, b"", PAYLOAD);
    *bytes.last_mut().unwrap() ^= 1;
    let shows = "PRF-4: a proof of another message";
    kit.refuses(&format!("pq-{suite}-proof-of-message"), shows, bytes, "proof", "proof");
}

fn segments(kit: &mut Kit, suite: u8) {
    let forge = Forge { segment_log2: 12, ..Forge::pq(suite, &[KEY]) };
    let (bytes, from) = (forge.envelope(0, 0, b"", &text(2 * 4096 + 1)), BLOCK + 12);
    let (first, rest) = bytes[from..].split_at(4 + 4096 + 16);
    let (second, end) = rest.split_at(4 + 4096 + 16);
    let swapped = [&bytes[..from], second, first, end].concat();
    let shows = "SEG-6: segments that are not where they were sealed";
    kit.refuses(&format!("pq-{suite}-segments-swapped"), shows, swapped, "tag", "tag");
    let mut cut = [&bytes[..from], first].concat();
    cut[from] |= 0x80;
    kit.refuses(&format!("pq-{suite}-end-cut"), "SEG-6: a segment made the last", cut, "tag", "tag");
}

fn halves(kit: &mut Kit) {
    let (to, other) = (public(&KEY), public(&OTHER));
    let (first, second, stranger) = (enc(&to, 1), enc(&to, 2), enc(&other, 3));
    let forge = Forge::pq(3, &[KEY]);
    // What the sender of the first enc wrapped, and the enc that arrives.
    for (name, received) in [
        ("x25519-of-another", joined(&first, &x25519_of(&second))),
        ("ml-kem-of-another", joined(&second, &x25519_of(&first))),
        ("x25519-to-another", joined(&first, &x25519_of(&stranger))),
        ("ml-kem-to-another", joined(&stranger, &x25519_of(&first))),
    ] {
        let mut slot = forge.pq_slot(&KEY, &first);
        slot[4..4 + ENC].copy_from_slice(&received);
        let bytes = Forge { slots: vec![slot], ..forge.clone() }.envelope(0, 0, b"", PAYLOAD);
        let shows = "X-Wing: halves of two encapsulations, in a slot that one of them made";
        kit.refuses(&format!("pq-halves-{name}"), shows, bytes, "key", "nokey");
    }
    let small = [
        ("zero", [0; 32]),
        ("one", ends(1, 0, 0)),
        ("minus-one", ends(0xec, 0xff, 0x7f)),
        ("order-8", unhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")),
        ("order-8-too", unhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157")),
        ("p", ends(0xed, 0xff, 0x7f)),
        ("p-and-one", ends(0xee, 0xff, 0x7f)),
    ];
    for (name, point) in &small {
        // A receiver that took the zero result would open it: the slot is wrapped under what he then has.
        let enc = joined(&first, point);
        let bytes = Forge { slots: vec![forge.pq_slot(&KEY, &enc)], ..forge.clone() }.envelope(0, 0, b"", PAYLOAD);
        let shows = "WRAP-1: an X25519 half of small order, under which the DEK is wrapped all the same";
        kit.refuses(&format!("pq-small-{name}"), shows, bytes, "key", "nokey");
    }
    let none = Forge { options: 0, ..Forge::pq(3, &[]) };
    let slots = vec![none.pq_slot(&KEY, &joined(&first, &[0; 32])), none.pq_slot(&KEY, &second)];
    let bytes = Forge { slots, ..none }.envelope(0, 0, b"", PAYLOAD);
    kit.opens("pq-small-and-good", "WRAP-1: a zero result is a trial that failed, and the next slot opens", bytes, b"", PAYLOAD);
    // 9 + p, with the top bit: what comes out is the receiver's own public key.
    let slots = vec![forge.pq_slot(&KEY, &joined(&first, &ends(0xf6, 0xff, 0xff)))];
    let bytes = Forge { slots, ..forge.clone() }.envelope(0, 0, b"", PAYLOAD);
    kit.opens("pq-not-canonical", "WRAP-4: an X25519 half that is not canonical", bytes, b"", PAYLOAD);
    let mut short = forge.clone();
    short.slots[0].truncate(1171);
    kit.refuses("pq-slot-short", "BLK-4: a slot of 1,171 bytes", short.envelope(0, 0, b"", PAYLOAD), "block", "malformed");
    let classical = Forge { suite: 3, enc: None, ..Forge::under(1, &[key()]) };
    let bytes = classical.envelope(0, 0, b"", PAYLOAD);
    kit.refuses("pq-slot-classical", "BLK-4: a slot of X25519 under an X-Wing suite", bytes, "block", "malformed");
    let bytes = Forge { suite: 1, ..forge.clone() }.envelope(0, 0, b"", PAYLOAD);
    kit.refuses("pq-slot-under-1", "BLK-4: a slot of X-Wing under suite 1", bytes, "block", "malformed");
}

fn ends(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut point = [middle; 32];
    (point[0], point[31]) = (first, last);
    point
}

fn unhex(s: &str) -> [u8; 32] {
    std::array::from_fn(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap())
}

fn channels(kit: &mut Kit) {
    let epoch = |suite: u8, dek: u8| {
        let mut forge = Forge { dek: [dek; 32], salt: [dek; 16], ..Forge::under(suite, &[]) };
        forge.slots =
            if suite > 2 { vec![forge.pq_slot(&KEY, &enc(&public(&KEY), dek))] } else { vec![forge.slot(&key(), &forge.dek)] };
        forge.enc = forge.enc.filter(|_| suite <= 2);
        forge
    };
    for (name, before, after) in [("3-to-4", 3, 4), ("from-1", 1, 3), ("to-2", 4, 2)] {
        let (a, b) = (epoch(before, 0xa1), epoch(after, 0xb2));
        let good = [
            a.envelope_bound(0, CHANNEL, b"", b"zero", b"", BINDING),
            a.follow_up(1, CHANNEL, b"", b"one", BINDING),
            b.envelope_bound(2, CHANNEL, b"", b"two", &chain(&a), BINDING),
            b.follow_up(3, CHANNEL | BATCH | LAST, b"", &batch(&[b"three", b""]), BINDING),
        ];
        let all: [&[u8]; 5] = [b"zero", b"one", b"two", b"three", b""];
        kit.channel(&format!("pq-channel-{name}"), "suites 3 and 4 on a channel, and a renewal", &good, &all, None);
        let unchained = [&good[..2], &[b.envelope_bound(2, CHANNEL, b"", b"two", b"", BINDING)]].concat();
        let shows = "CHN-7: a renewal that does not know the epoch before it";
        kit.channel(&format!("pq-channel-{name}-unchained"), shows, &unchained, &all[..2], Some(("tag", "tag")));
        let wrong = [&good[..3], &[a.follow_up(3, CHANNEL, b"", b"three", BINDING)]].concat();
        let shows = "a follow-up under the epoch before the renewal";
        kit.channel(&format!("pq-channel-{name}-old-epoch"), shows, &wrong, &all[..3], Some(("tag", "tag")));
    }
    let reply = epoch(3, 0xc3).signed(&ALICE, &channel(true, BINDING));
    let bytes = reply.envelope_bound(0, CHANNEL | ACCEPTOR | LAST, b"", b"re", b"", BINDING);
    let scenario = kit.opens("pq-channel-reply", "suite 3: the acceptor's side, signed", bytes, b"", b"re");
    (scenario.way, scenario.binding, scenario.sender) = (Way::Initiator, BINDING.to_vec(), alice("verified"));
}

fn apart(kit: &mut Kit) {
    let forge = Forge { segment_log2: 12, ..Forge::pq(4, &[KEY]) };
    let message = forge.envelope(3, 0, b"row", &text(9000)).split_off(BLOCK);
    let shows = "SEG-9, DET-1: suite 4: a part of a message without its block";
    let scenario = kit.opens("pq-detached-part", shows, message.clone(), b"row", &text(9000)[4000..5000]);
    (scenario.way, scenario.block, scenario.range) = (Way::Detached, Some(forge.block()), Some((4000, 5000)));
    let scenario =
        kit.refuses("pq-detached-block-of-suite-3", "a message beside a block of another suite", message, "tag", "tag");
    (scenario.way, scenario.block) = (Way::Detached, Some(Forge::pq(3, &[KEY]).block()));
}
