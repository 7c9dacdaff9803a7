//! The scenarios of spec/vectors: each shows one thing and, where it is refused, fails at one layer. Deterministic, and
//! made by the kit alone, without the crate's own writer.

use super::{Forge, batch, pad};

/// How a vector's bytes are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// One self-contained message.
    Envelope,
    /// A channel, by the side that accepted the connection or the one that opened it.
    Acceptor,
    Initiator,
    /// A message whose block is given apart.
    Detached,
    /// A self-contained message as text.
    Armor,
}

pub struct Scenario {
    pub name: String,
    pub shows: String,
    pub way: Way,
    pub keys: Vec<[u8; 32]>,
    pub binding: Vec<u8>,
    pub bytes: Vec<u8>,
    /// The block of a message that was kept apart from it.
    pub block: Option<Vec<u8>>,
    /// The bytes of the payload that are asked for, where it is not all of them.
    pub range: Option<(u64, u64)>,
    /// `None` where everything opens; otherwise the layer that must fail and the answer.
    pub refused: Option<(&'static str, &'static str)>,
    /// What is released: contexts and payloads, in order.
    pub released: Vec<(Vec<u8>, Vec<u8>)>,
    /// The sender of what is released: standing and key.
    pub sender: Option<(&'static str, [u8; 32])>,
    /// What a KMS answers to a provider and a key_ref, for the pairs that the reader's user has named.
    pub kms: Vec<(&'static str, &'static str, Vec<u8>)>,
    /// The only senders whose messages are opened, and the standings besides the usual ones.
    pub senders: Option<(Vec<[u8; 32]>, Vec<&'static str>)>,
}

pub const KEY: [u8; 32] = [0x61; 32];
pub const OTHER: [u8; 32] = [0x62; 32];
pub(super) const PAYLOAD: &[u8] = b"attack at dawn";
pub(super) const CHANNEL: u8 = 8;
pub(super) const LAST: u8 = 1;
pub(super) const PADDED: u8 = 2;
const BATCH: u8 = 4;
pub(super) const ACCEPTOR: u8 = 16;

pub(super) fn key() -> [u8; 32] {
    super::public(&KEY)
}

pub(super) fn other() -> [u8; 32] {
    super::public(&OTHER)
}

pub(super) fn forge() -> Forge {
    Forge::to(&[key()])
}

/// A block with an enc a slot, hints as given.
pub(super) fn own(options: u8) -> Forge {
    Forge { options, enc: None, ..Forge::to(&[]) }
}

/// Bytes that differ from their neighbours.
pub(super) fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[derive(Default)]
pub struct Kit {
    pub all: Vec<Scenario>,
}

impl Kit {
    pub(super) fn add(&mut self, name: &str, shows: &str, bytes: Vec<u8>) -> &mut Scenario {
        assert!(self.all.iter().all(|s| s.name != name), "{name} twice");
        self.all.push(Scenario {
            name: name.into(),
            shows: shows.into(),
            way: Way::Envelope,
            keys: vec![KEY],
            binding: Vec::new(),
            bytes,
            block: None,
            range: None,
            refused: None,
            released: Vec::new(),
            sender: None,
            senders: None,
            kms: Vec::new(),
        });
        self.all.last_mut().unwrap()
    }

    /// A message that opens.
    pub(super) fn opens(&mut self, name: &str, shows: &str, bytes: Vec<u8>, context: &[u8], payload: &[u8]) -> &mut Scenario {
        let scenario = self.add(name, shows, bytes);
        scenario.released = vec![(context.to_vec(), payload.to_vec())];
        scenario
    }

    /// A message that does not, at `layer`, with `answer`.
    pub(super) fn refuses(
        &mut self,
        name: &str,
        shows: &str,
        bytes: Vec<u8>,
        layer: &'static str,
        answer: &'static str,
    ) -> &mut Scenario {
        let scenario = self.add(name, shows, bytes);
        scenario.refused = Some((layer, answer));
        scenario
    }

    /// A channel that the acceptor reads: what it delivers, and where it fails.
    pub(super) fn channel(
        &mut self,
        name: &str,
        shows: &str,
        pieces: &[Vec<u8>],
        released: &[&[u8]],
        refused: Option<(&'static str, &'static str)>,
    ) {
        let scenario = self.add(name, shows, pieces.concat());
        scenario.way = Way::Acceptor;
        scenario.binding = BINDING.to_vec();
        scenario.released = released.iter().map(|payload| (Vec::new(), payload.to_vec())).collect();
        scenario.refused = refused;
    }
}

pub(super) const BINDING: &[u8] = b"what both sides know";

/// All of them.
pub fn all() -> Vec<Scenario> {
    let mut kit = Kit::default();
    envelopes(&mut kit);
    blocks(&mut kit);
    externals(&mut kit);
    heads(&mut kit);
    segments(&mut kit);
    wrapping(&mut kit);
    schedule(&mut kit);
    bytes_of_the_block(&mut kit);
    padding(&mut kit);
    limits(&mut kit);
    channels(&mut kit);
    attacks(&mut kit);
    batches(&mut kit);
    super::senders::add(&mut kit);
    super::apart::add(&mut kit);
    super::aes::add(&mut kit);
    super::pq::add(&mut kit);
    kit.all
}

fn envelopes(kit: &mut Kit) {
    for len in [0, 1, 4095, 4096, 4097, 8193] {
        let forge = Forge { segment_log2: 12, ..forge() };
        kit.opens(
            &format!("payload-{len}"),
            "a payload of this length in segments of 4 KiB",
            forge.envelope(0, 0, b"", &text(len)),
            b"",
            &text(len),
        );
    }
    for log2 in [16, 24] {
        let forge = Forge { segment_log2: log2, ..forge() };
        kit.opens(&format!("segment-log2-{log2}"), "a segment size", forge.envelope(0, 0, b"", PAYLOAD), b"", PAYLOAD);
    }
    for n in [2u8, 64] {
        let mut to: Vec<_> = (1..n).map(|i| super::public(&[i; 32])).collect();
        to.push(key());
        kit.opens(
            &format!("recipients-{n}"),
            "several recipients, the reader the last",
            Forge::to(&to).envelope(0, 0, b"", PAYLOAD),
            b"",
            PAYLOAD,
        );
    }
    for (hints, name) in [(0, "none"), (1, "rotating"), (2, "static")] {
        let mut shared = Forge { options: hints, ..Forge::to(&[]) };
        shared.slots = vec![shared.slot(&other(), &shared.dek), shared.slot(&key(), &shared.dek)];
        kit.opens(&format!("hints-{name}"), "a hint mode, one enc for all", shared.envelope(0, 0, b"", PAYLOAD), b"", PAYLOAD);
        let mut own = own(hints | 8);
        own.slots = vec![own.own_slot(&[3; 32], &other(), &own.dek), own.own_slot(&[4; 32], &key(), &own.dek)];
        kit.opens(
            &format!("hints-{name}-own-enc"),
            "a hint mode, an enc for each slot",
            own.envelope(0, 0, b"", PAYLOAD),
            b"",
            PAYLOAD,
        );
    }
    for context in [&b"orders/7"[..], &[0xff; 8192]] {
        kit.opens(&format!("context-{}", context.len()), "a context", forge().envelope(0, 0, context, PAYLOAD), context, PAYLOAD);
    }
    for seq in [258, u64::MAX] {
        kit.opens(&format!("seq-{seq}"), "a sequence number", forge().envelope(seq, 0, b"", PAYLOAD), b"", PAYLOAD);
    }
    for created_at in [0, 253_402_300_799] {
        let forge = Forge { created_at, ..forge() };
        kit.opens(&format!("created-at-{created_at}"), "a date", forge.envelope(0, 0, b"", PAYLOAD), b"", PAYLOAD);
    }
    let bound = forge().envelope_bound(0, 0, b"", PAYLOAD, b"", BINDING);
    kit.opens("binding", "a binding", bound.clone(), b"", PAYLOAD).binding = BINDING.to_vec();
    kit.refuses("binding-missing", "a bound message, opened without its binding", bound.clone(), "tag", "tag");
    kit.refuses("binding-other", "a bound message, opened with another binding", bound, "tag", "tag").binding = b"else".to_vec();
}

/// An envelope with its block changed and its header_mac made again.
fn with_block(forge: &Forge, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut block = forge.block();
    block.truncate(block.len() - 32);
    change(&mut block);
    let head = forge.head(0, 0, b"");
    [forge.mac(block), head.clone(), forge.segments(0, &head, PAYLOAD)].concat()
}

fn set(at: usize, value: &[u8]) -> impl FnOnce(&mut Vec<u8>) + '_ {
    move |block| block[at..at + value.len()].copy_from_slice(value)
}

fn blocks(kit: &mut Kit) {
    let forge = forge();
    for at in 0..3 {
        let bytes = with_block(&forge, |block| block[at] ^= 0x20);
        kit.refuses(&format!("magic-{at}"), "BLK-1: a wrong byte of the magic", bytes, "block", "malformed");
    }
    for version in [0, 2, 255] {
        kit.refuses(
            &format!("version-{version}"),
            "BLK-2: an unknown version",
            with_block(&forge, set(3, &[version])),
            "block",
            "unsupported",
        );
    }
    for (len, layer, answer) in [
        (0u32, "block", "malformed"),
        (8, "block", "malformed"),
        (68, "block", "malformed"),
        (152, "block", "malformed"),
        (131_073, "limit", "limit"),
        (u32::MAX, "limit", "limit"),
    ] {
        let id = if answer == "limit" { "BLK-3" } else { "BLK-4" };
        kit.refuses(
            &format!("block-len-{len}"),
            &format!("{id}: a block_len that is not the length of the parts"),
            with_block(&forge, set(4, &len.to_be_bytes())),
            layer,
            answer,
        );
    }
    let longer = with_block(&forge, |block| {
        block.push(0);
        block[7] += 1;
    });
    kit.refuses("block-len-with-a-byte-more", "BLK-4: a byte between the parts and header_mac", longer, "block", "malformed");
    for suite in [0u8, 5, 8, 9, 128, 255] {
        kit.refuses(
            &format!("suite-{suite}"),
            "BLK-5: a suite that is not in the table",
            with_block(&forge, set(8, &[suite])),
            "block",
            "unsupported",
        );
    }
    for bit in 5..8 {
        kit.refuses(
            &format!("options-bit-{bit}"),
            "BLK-6: a reserved option bit",
            with_block(&forge, set(9, &[1 | 1 << bit])),
            "block",
            "unsupported",
        );
    }
    kit.refuses("options-hint-mode-3", "BLK-9: hint mode 3", with_block(&forge, set(9, &[3])), "block", "unsupported");
    kit.refuses("options-bit-4-alone", "BLK-7: bit 4 without bit 2", with_block(&forge, set(9, &[0x11])), "block", "malformed");
    // Under the keys of suite 1, whose number is changed.
    let x_wing = Forge { options: 9, enc: None, slots: vec![vec![0x33; 1172]], ..Forge::to(&[]) };
    let mut block = x_wing.block();
    block.truncate(block.len() - 32);
    block[8] = 3;
    let head = x_wing.head(0, 0, b"");
    kit.refuses(
        "options-bit-3-x-wing",
        "BLK-8: bit 3 under an X-Wing suite",
        [x_wing.mac(block), head.clone(), x_wing.segments(0, &head, PAYLOAD)].concat(),
        "block",
        "malformed",
    );
    let none = Forge { options: 0, enc: None, ..Forge::to(&[]) };
    kit.refuses("no-recipient", "BLK-11: neither slot nor external", none.envelope(0, 0, b"", PAYLOAD), "block", "malformed");
    let external = vec![external(b"kms", b"id", b"blob")];
    for options in [1u8, 2, 8, 9] {
        let forge = Forge { options, externals: external.clone(), ..none.clone() };
        kit.refuses(
            &format!("options-{options}-without-slots"),
            "BLK-10: hint bits or bit 3 without a slot",
            forge.envelope(0, 0, b"", PAYLOAD),
            "block",
            "malformed",
        );
    }
    for created_at in [253_402_300_800, u64::MAX] {
        let forge = Forge { created_at, ..forge.clone() };
        kit.refuses(
            &format!("created-at-{created_at}-refused"),
            "BLK-12: a date after the year 9999",
            forge.envelope(0, 0, b"", PAYLOAD),
            "block",
            "malformed",
        );
    }
    let mut hinted = Forge { options: 0, ..Forge::to(&[]) };
    let slot = hinted.slot(&key(), &hinted.dek);
    for byte in 0..4 {
        let mut slot = slot.clone();
        slot[byte] = 1;
        hinted.slots = vec![slot];
        kit.refuses(
            &format!("hint-in-mode-none-{byte}"),
            "BLK-13: a hint in a block without hints",
            hinted.envelope(0, 0, b"", PAYLOAD),
            "block",
            "malformed",
        );
    }
    let whole = forge.envelope(0, 0, b"ctx", PAYLOAD);
    for (end, field) in [
        (0, "magic"),
        (2, "magic"),
        (3, "version"),
        (4, "block_len"),
        (7, "block_len"),
        (8, "suite"),
        (12, "external_count"),
        (20, "created_at"),
        (36, "salt"),
        (68, "enc"),
        (72, "hint"),
        (120, "wrapped_dek"),
        (152, "header_mac"),
    ] {
        kit.refuses(
            &format!("cut-in-block-{end}"),
            &format!("BLK-17: the input ends before {field} does"),
            whole[..end].to_vec(),
            "block",
            "truncated",
        );
    }
    for (end, field) in [
        (153, "seq"),
        (160, "seq"),
        (161, "segment_log2"),
        (162, "flags"),
        (163, "context_len"),
        (165, "context"),
        (167, "context"),
    ] {
        kit.refuses(
            &format!("cut-in-head-{end}"),
            &format!("the input ends before {field} does"),
            whole[..end].to_vec(),
            "head",
            "truncated",
        );
    }
    for (end, field) in [(168, "prefix"), (171, "prefix"), (172, "ciphertext"), (180, "ciphertext"), (186, "tag"), (201, "tag")] {
        kit.refuses(
            &format!("cut-in-segment-{end}"),
            &format!("the input ends before {field} does"),
            whole[..end].to_vec(),
            "segments",
            "truncated",
        );
    }
    let two = Forge { slots: [forge.slots.clone(), vec![forge.slots[0].clone()]].concat(), ..forge.clone() };
    kit.opens("slot-twice", "the same slot twice is two candidates for one DEK", two.envelope(0, 0, b"", PAYLOAD), b"", PAYLOAD);
    let counted = with_block(&forge, set(10, &[0, 2]));
    kit.refuses("slot-count-over", "BLK-4: a slot_count that overruns the block", counted, "block", "malformed");
    kit.refuses(
        "external-count-over",
        "BLK-4: an external_count that overruns the block",
        with_block(&forge, set(12, &[1])),
        "block",
        "malformed",
    );
}

pub(super) fn external(provider: &[u8], key_ref: &[u8], blob: &[u8]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    [&[provider.len() as u8][..], provider, &sized(key_ref), &sized(blob)].concat()
}

fn externals(kit: &mut Kit) {
    let with = |externals: Vec<Vec<u8>>| Forge { externals, ..forge() }.envelope(0, 0, b"", PAYLOAD);
    for (name, provider, key_ref, blob) in [
        ("plain", &b"aws"[..], &b"arn:1"[..], &b"blob"[..]),
        ("shortest", b"a", b"", b"b"),
        ("longest", &[b'z'; 32], &[b'k'; 2048], &[7; 6144]),
        ("utf-8", b"kms-0", "clé/ключ/鍵".as_bytes(), b"\0"),
    ] {
        kit.opens(
            &format!("external-{name}"),
            "an external beside a slot",
            with(vec![external(provider, key_ref, blob)]),
            b"",
            PAYLOAD,
        );
    }
    kit.opens("external-four", "as many externals as the default limit", with(vec![external(b"a", b"b", b"c"); 4]), b"", PAYLOAD);
    kit.refuses(
        "external-five",
        "LIM-1: more externals than the limit",
        with(vec![external(b"a", b"b", b"c"); 5]),
        "limit",
        "limit",
    );
    for (name, provider) in [
        ("empty", &b""[..]),
        ("upper", b"AWS"),
        ("space", b"a b"),
        ("dot", b"a.b"),
        ("underscore", b"a_b"),
        ("long", &[b'a'; 33]),
        ("nul", b"a\0"),
        ("high", b"\xc3\xa9"),
    ] {
        kit.refuses(
            &format!("external-provider-{name}"),
            "BLK-14: a provider outside a-z, 0-9, - or 1 to 32",
            with(vec![external(provider, b"k", b"b")]),
            "block",
            "malformed",
        );
    }
    for (name, key_ref) in [
        ("long", &[b'k'; 2049][..]),
        ("not-utf-8", b"\xff"),
        ("overlong", b"\xc0\x80"),
        ("surrogate", b"\xed\xa0\x80"),
        ("cut", b"\xe9\x8d"),
    ] {
        kit.refuses(
            &format!("external-key-ref-{name}"),
            "BLK-15: a key_ref that is no UTF-8 or too long",
            with(vec![external(b"a", key_ref, b"b")]),
            "block",
            "malformed",
        );
    }
    kit.refuses("external-blob-empty", "BLK-16: an empty blob", with(vec![external(b"a", b"k", b"")]), "block", "malformed");
    kit.refuses(
        "external-blob-long",
        "BLK-16: a blob over 6,144 bytes",
        with(vec![external(b"a", b"k", &[7; 6145])]),
        "block",
        "malformed",
    );
    let alone = Forge { options: 0, enc: None, externals: vec![external(b"a", b"k", b"b")], ..Forge::to(&[]) };
    kit.refuses(
        "external-alone",
        "a block of externals alone, to a reader that has only keys",
        alone.envelope(0, 0, b"", PAYLOAD),
        "key",
        "nokey",
    );
    through_kms(kit);
}

/// DEKs that a KMS supplies: who is asked, and which answer counts.
fn through_kms(kit: &mut Kit) {
    let dek = forge().dek.to_vec();
    let wrong = |byte: u8| vec![byte; 32];
    let alone = |suite: u8, externals: &[(&str, &str)]| Forge {
        options: 0,
        enc: None,
        externals: externals
            .iter()
            .map(|(provider, key_ref)| external(provider.as_bytes(), key_ref.as_bytes(), b"blob"))
            .collect(),
        ..Forge::under(suite, &[])
    };
    let opens = |suite: u8, externals: &[(&str, &str)]| alone(suite, externals).envelope(0, 0, b"", PAYLOAD);
    for suite in [1, 2] {
        let name = format!("kms-alone-suite-{suite}");
        kit.opens(&name, "a DEK from a KMS, and no slot", opens(suite, &[("aws", "k1")]), b"", PAYLOAD).kms =
            vec![("aws", "k1", dek.clone())];
    }
    let beside = Forge { externals: vec![external(b"aws", b"k1", b"blob")], ..Forge::to(&[super::public(&OTHER)]) };
    kit.opens(
        "kms-beside-a-slot",
        "a DEK from a KMS, beside somebody else's slot",
        beside.envelope(0, 0, b"", PAYLOAD),
        b"",
        PAYLOAD,
    )
    .kms = vec![("aws", "k1", dek.clone())];
    let four = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")];
    let answers = vec![("a", "1", wrong(1)), ("b", "2", dek[..31].to_vec()), ("c", "3", wrong(3)), ("d", "4", dek.clone())];
    kit.opens("kms-the-last-of-four", "KEY-2, EXT-2: wrong answers before the right one", opens(1, &four), b"", PAYLOAD).kms =
        answers;
    let mut refuses = |name: &str, shows: &str, externals: &[(&str, &str)], kms, (layer, answer)| {
        kit.refuses(name, shows, opens(1, externals), layer, answer).kms = kms;
    };
    let nokey = ("key", "nokey");
    for (name, pair) in [("provider", ("gcp", "k1")), ("key-ref", ("aws", "k2")), ("key-ref-longer", ("aws", "k1 "))] {
        let kms = vec![(pair.0, pair.1, dek.clone())];
        refuses(&format!("kms-other-{name}"), "EXT-1: the pair is not one that is named", &[("aws", "k1")], kms, nokey);
    }
    let crossed = vec![("aws", "k2", dek.clone()), ("gcp", "k1", dek.clone())];
    refuses("kms-crossed", "EXT-1: names are pairs", &[("aws", "k1"), ("gcp", "k2")], crossed, nokey);
    refuses("kms-other-key-ref-empty", "EXT-1: no key_ref is no other", &[("aws", "")], vec![("aws", "k1", dek.clone())], nokey);
    refuses("kms-empty-answer", "EXT-2: an answer without a byte", &[("aws", "k1")], vec![("aws", "k1", Vec::new())], nokey);
    let short = vec![("aws", "k1", dek[..31].to_vec())];
    refuses("kms-short-answer", "EXT-2: an answer of 31 bytes", &[("aws", "k1")], short, nokey);
    let long = vec![("aws", "k1", [&dek[..], &[0]].concat())];
    refuses("kms-long-answer", "EXT-2: an answer of 33 bytes", &[("aws", "k1")], long, nokey);
    let other = vec![("aws", "k1", wrong(9))];
    refuses("kms-wrong-answer", "KEY-2: another DEK", &[("aws", "k1")], other, ("header_mac", "header_mac"));
}

fn heads(kit: &mut Kit) {
    for log2 in [0u8, 1, 11, 25, 31, 255] {
        let mut bytes = forge().envelope(0, 0, b"", PAYLOAD);
        bytes[161] = log2;
        kit.refuses(&format!("head-segment-log2-{log2}"), "HEAD-2: a segment_log2 outside 12 to 24", bytes, "head", "malformed");
    }
    for bit in 5..8 {
        kit.refuses(
            &format!("flags-bit-{bit}"),
            "HEAD-3: a reserved flag bit",
            forge().envelope(0, 1 << bit, b"", PAYLOAD),
            "head",
            "unsupported",
        );
    }
    for (flag, name) in [(LAST, "last"), (BATCH, "batch"), (ACCEPTOR, "acceptor")] {
        kit.refuses(
            &format!("flag-{name}-without-channel"),
            "HEAD-4: a flag that needs the channel flag",
            forge().envelope(0, flag, b"", PAYLOAD),
            "head",
            "malformed",
        );
    }
    kit.refuses(
        "flag-channel",
        "CHN-2: a message of a channel, by itself",
        forge().envelope(0, CHANNEL, b"", PAYLOAD),
        "head",
        "malformed",
    );
    for len in [8193, 65_535] {
        kit.refuses(
            &format!("context-{len}-refused"),
            "LIM-2: a context over the limit",
            forge().envelope(0, 0, &vec![1; len], PAYLOAD),
            "limit",
            "limit",
        );
    }
    for (at, name, flip) in [(160, "seq", 1u8), (161, "segment-log2", 1), (162, "padded", PADDED), (165, "context", 1)] {
        let mut bytes = forge().envelope(0, 0, b"ctx", &pad(b"hi", 10));
        bytes[at] ^= flip;
        kit.refuses(&format!("head-changed-{name}"), "a field of the head that is not what was sealed", bytes, "tag", "tag");
    }
    let mut shorter = forge().envelope(0, 0, b"ctx", PAYLOAD);
    shorter[164] = 2;
    shorter.remove(167);
    kit.refuses("head-context-shorter", "a context that lost a byte", shorter, "tag", "tag");
    for first in [0u8, 1, 2, 0x52, 0x54, 0xff] {
        let mut bytes = forge().envelope(0, 0, b"", PAYLOAD);
        bytes[0] = first;
        kit.refuses(
            &format!("first-byte-{first:02x}"),
            "HEAD-1, BLK-1: a first byte that begins no envelope",
            bytes,
            "block",
            "malformed",
        );
    }
}

fn segments(kit: &mut Kit) {
    let forge = Forge { segment_log2: 12, ..forge() };
    let front = [forge.block(), forge.head(0, 0, b"")].concat();
    let aad = forge.head(0, 0, b"");
    let with = |segments: &[Vec<u8>]| [&front[..], &segments.concat()].concat();
    let (a, b, c) = (vec![b'a'; 4096], vec![b'b'; 4096], vec![b'c'; 100]);
    let good = [forge.segment(0, 0, false, &aad, &a), forge.segment(0, 1, false, b"", &b), forge.segment(0, 2, true, b"", &c)];
    let prefix = |word: u32, rest: usize| [&word.to_be_bytes()[..], &vec![0; rest]].concat();
    const FINAL: u32 = 1 << 31;
    for len in [0u32, 1, 15] {
        kit.refuses(
            &format!("prefix-{len}"),
            "SEG-1: a prefix shorter than a tag",
            with(&[prefix(FINAL | len, len as usize)]),
            "segments",
            "malformed",
        );
    }
    for (name, len) in [("one-over", 4113u32), ("most", 0x7fff_ffff)] {
        kit.refuses(
            &format!("prefix-{name}"),
            "SEG-2: a segment longer than the segment size",
            with(&[prefix(FINAL | len, 4113)]),
            "segments",
            "malformed",
        );
    }
    for (name, segment) in
        [("short", forge.segment(0, 0, false, &aad, &a[..4095])), ("empty", forge.segment(0, 0, false, &aad, b""))]
    {
        kit.refuses(
            &format!("segment-not-full-{name}"),
            "SEG-3: a segment before the final one that is not full",
            with(&[segment, good[2].clone()]),
            "segments",
            "malformed",
        );
    }
    kit.refuses(
        "segment-not-full-second",
        "SEG-3: the second segment is not full",
        with(&[good[0].clone(), forge.segment(0, 1, false, b"", &c), good[2].clone()]),
        "segments",
        "malformed",
    );
    kit.refuses(
        "final-empty",
        "SEG-4: an empty final segment after a full one",
        with(&[good[0].clone(), forge.segment(0, 1, true, b"", b"")]),
        "segments",
        "malformed",
    );
    kit.refuses("final-missing", "the input ends after a segment that is not final", with(&good[..2]), "segments", "truncated");
    kit.refuses("no-segment", "a message without a segment", with(&[]), "segments", "truncated");
    let [x, y, z] = good.clone();
    kit.opens("three-segments", "three segments, the last one short", with(&good), b"", &[&a[..], &b, &c].concat());
    for (name, order) in [
        ("swapped", [&y, &x, &z].map(Clone::clone).to_vec()),
        ("dropped-first", vec![y.clone(), z.clone()]),
        ("dropped-second", vec![x.clone(), z.clone()]),
        ("repeated-first", vec![x.clone(), x.clone(), z.clone()]),
        ("repeated-second", vec![x.clone(), y.clone(), y.clone(), z.clone()]),
    ] {
        kit.refuses(
            &format!("segments-{name}"),
            "SEG-6: segments that are not where they were sealed",
            with(&order),
            "tag",
            "tag",
        );
    }
    let early = [forge.segment(0, 0, false, &aad, &a), forge.segment(0, 1, false, b"", &b)];
    let mut final_set = with(&early);
    let at = front.len() + 4116;
    final_set[at] |= 0x80;
    kit.refuses("final-flag-set", "a cut hidden by marking the segment before it final", final_set, "tag", "tag");
    let mut final_cleared = with(&[forge.segment(0, 0, true, &aad, &a), good[2].clone()]);
    final_cleared[front.len()] &= 0x7f;
    kit.refuses("final-flag-cleared", "an end that was made no end, and bytes appended", final_cleared, "tag", "tag");
    kit.refuses(
        "segment-of-another-message",
        "a segment of another message under the same DEK",
        with(&[x.clone(), forge.segment(1, 1, false, b"", &b), z.clone()]),
        "tag",
        "tag",
    );
    kit.refuses(
        "later-aad-not-empty",
        "a later segment sealed with the head as AAD",
        with(&[x.clone(), forge.segment(0, 1, false, &aad, &b), z.clone()]),
        "tag",
        "tag",
    );
    for (name, at) in [("ciphertext-first", 4usize), ("ciphertext-last", 4099), ("tag-first", 4100), ("tag-last", 4115)] {
        for (i, which) in ["first", "second"].iter().enumerate() {
            let mut bytes = with(&good);
            bytes[front.len() + i * 4116 + at] ^= 0x80;
            kit.refuses(&format!("flip-{name}-of-{which}"), "SEG-6: a flipped bit in a segment", bytes, "tag", "tag");
        }
    }
    let mut last = with(&good);
    *last.last_mut().unwrap() ^= 1;
    kit.refuses("flip-in-the-final-tag", "SEG-6: a flipped bit in the last byte", last, "tag", "tag");
    for (name, more) in [("byte", vec![0]), ("envelope", with(&good)), ("newline", b"\n".to_vec())] {
        kit.refuses(
            &format!("trailing-{name}"),
            "SEG-8: bytes after the final segment",
            [with(&good), more].concat(),
            "end",
            "trailing",
        );
    }
    for (name, at) in [("prefix", 2), ("ciphertext", 2000), ("tag", 4110), ("next-prefix", 4117)] {
        kit.refuses(
            &format!("cut-in-segments-{name}"),
            "the input ends inside a segment",
            with(&good)[..front.len() + at].to_vec(),
            "segments",
            "truncated",
        );
    }
}

fn wrapping(kit: &mut Kit) {
    let message = |forge: &Forge| forge.envelope(0, 0, b"", PAYLOAD);
    kit.refuses("not-a-recipient", "a message for somebody else", message(&Forge::to(&[other()])), "key", "nokey");
    kit.refuses("no-key", "a reader without a key", message(&forge()), "key", "nokey").keys = vec![];
    kit.opens("two-keys", "a reader with two keys, the second fits", message(&forge()), b"", PAYLOAD).keys = vec![OTHER, KEY];
    for options in [0u8, 1] {
        let mut forge = Forge { options, ..Forge::to(&[]) };
        let (wrong, right) = (forge.slot(&key(), &[0xee; 32]), forge.slot(&key(), &forge.dek));
        forge.slots = vec![wrong.clone(), right.clone()];
        kit.opens(
            &format!("wrong-dek-first-{options}"),
            "KEY-2: a slot with another DEK stands before the right one",
            message(&forge),
            b"",
            PAYLOAD,
        );
        forge.slots = vec![right, wrong.clone()];
        kit.opens(
            &format!("wrong-dek-last-{options}"),
            "KEY-2: a slot with another DEK stands behind the right one",
            message(&forge),
            b"",
            PAYLOAD,
        );
        forge.slots = vec![wrong];
        kit.refuses(
            &format!("wrong-dek-alone-{options}"),
            "KEY-2: a slot opens and carries another DEK",
            message(&forge),
            "header_mac",
            "header_mac",
        );
    }
    let mut p = [0xff; 32];
    (p[0], p[31]) = (0xed, 0x7f);
    let add = |n: u8, base: &[u8; 32]| {
        let mut point = *base;
        point[0] = point[0].wrapping_add(n);
        point
    };
    let top = |mut point: [u8; 32]| {
        point[31] |= 0x80;
        point
    };
    let small = [
        ("zero", [0; 32]),
        ("one", add(1, &[0; 32])),
        ("minus-one", add(255, &p)),
        ("p", p),
        ("p-plus-one", add(1, &p)),
        ("zero-top-bit", top([0; 32])),
        ("one-top-bit", top(add(1, &[0; 32]))),
    ];
    for (name, enc) in small {
        let mut shared = forge();
        shared.enc = Some(enc);
        kit.refuses(&format!("enc-{name}"), "WRAP-1: an enc of small order", message(&shared), "key", "nokey");
        if name != "zero" {
            continue;
        }
        let mut own = own(8);
        own.slots = vec![[&[0; 4][..], &enc, &[7; 48]].concat(), own.own_slot(&[3; 32], &key(), &own.dek)];
        kit.opens(
            &format!("enc-{name}-then-good"),
            "WRAP-1: a slot with an enc of small order is a failed trial, and the next slot opens",
            message(&own),
            b"",
            PAYLOAD,
        );
    }
    // A receiver that took the zero result would open these: the slot is wrapped under what he then has.
    for (name, enc) in small {
        let shows = "WRAP-1: an enc of small order, under which the DEK is wrapped all the same";
        let wrapped = |forge: &Forge| super::wrap_with(forge.suite, &[0; 32], &enc, &key(), &forge.dek);
        let mut shared = forge();
        shared.enc = Some(enc);
        shared.slots = vec![[&shared.slots[0][..4], &wrapped(&shared)].concat()];
        kit.refuses(&format!("small-{name}"), shows, message(&shared), "key", "nokey");
        let mut own = Forge { suite: 2, ..own(8) };
        own.slots = vec![[&[0; 4][..], &enc, &wrapped(&own)].concat()];
        kit.refuses(&format!("small-own-{name}"), shows, message(&own), "key", "nokey");
    }
    // 9 + p, and with the top bit: what comes out is the receiver's own public key.
    for (name, last) in [("reduced", 0x7f), ("top-bit", 0xff)] {
        let mut enc = [0xff; 32];
        (enc[0], enc[31]) = (0xf6, last);
        let mut shared = forge();
        shared.enc = Some(enc);
        shared.slots = vec![[&shared.slots[0][..4], &super::wrap_with(1, &key(), &enc, &key(), &shared.dek)].concat()];
        kit.opens(&format!("not-canonical-{name}"), "WRAP-4: an enc that is not canonical", message(&shared), b"", PAYLOAD);
    }
    for (name, at) in [("hint", 69usize), ("first", 73), ("tag", 120)] {
        let bytes = with_block(&forge(), |block| block[at] ^= 1);
        kit.refuses(&format!("slot-changed-{name}"), "a slot whose bytes are not what was wrapped", bytes, "key", "nokey");
    }
    kit.refuses(
        "enc-changed",
        "an enc that is not the one it was wrapped with",
        with_block(&forge(), |block| block[40] ^= 1),
        "key",
        "nokey",
    );
    let mut wrong_hint = forge();
    wrong_hint.slots[0][..4].copy_from_slice(&super::fingerprint(&key())[..4]);
    kit.refuses("static-hint-in-rotating", "a static hint in a block of rotating hints", message(&wrong_hint), "key", "nokey");
    let mut strangers = own(8);
    let stranger = |i: u8| strangers.own_slot(&[i + 1; 32], &other(), &[1; 32]);
    let slots: Vec<_> = (0..64).map(stranger).collect();
    let mine = strangers.own_slot(&[0x77; 32], &key(), &strangers.dek);
    strangers.slots = [&slots[..63], std::slice::from_ref(&mine)].concat();
    kit.opens("trials-64", "WRAP-6: the 64th trial opens", message(&strangers), b"", PAYLOAD);
    strangers.slots = [&slots[..], std::slice::from_ref(&mine)].concat();
    kit.refuses("trials-65", "WRAP-6: the 65th trial would open", message(&strangers), "limit", "limit");
    strangers.slots = vec![slots[0].clone(); 200];
    strangers.slots.push(mine);
    kit.opens("trials-of-one-enc", "WRAP-6: 200 slots with one enc are one trial", message(&strangers), b"", PAYLOAD);
}

fn schedule(kit: &mut Kit) {
    let forge = forge();
    for (name, at) in [
        ("created-at", 20usize),
        ("salt", 21),
        ("enc", 37),
        ("hint", 69),
        ("wrapped-dek", 73),
        ("mac-first", 121),
        ("mac-last", 152),
    ] {
        let mut none = Forge { options: 0, ..Forge::to(&[]) };
        none.slots = vec![none.slot(&other(), &none.dek), none.slot(&key(), &none.dek)];
        let mut bytes = none.envelope(0, 0, b"", PAYLOAD);
        // Behind the first slot, so that the reader's own still opens where that is possible.
        let at = if at >= 121 { at + 52 } else { at };
        bytes[at] ^= 1;
        let (layer, answer) = match name {
            "enc" => ("key", "nokey"),
            "hint" => ("block", "malformed"),
            _ => ("header_mac", "header_mac"),
        };
        kit.refuses(
            &format!("block-changed-{name}"),
            "KEY-1: a block that is not the one that was authenticated",
            bytes,
            layer,
            answer,
        );
    }
    let covers = |block: Vec<u8>| {
        let head = forge.head(0, 0, b"");
        [block, head.clone(), forge.segments(0, &head, PAYLOAD)].concat()
    };
    let mut without_magic = forge.block();
    let len = without_magic.len();
    let short = forge.mac(without_magic[8..len - 32].to_vec());
    without_magic[len - 32..].copy_from_slice(short.last_chunk::<32>().unwrap());
    kit.refuses(
        "mac-without-preamble",
        "KEY-1: a header_mac that leaves out magic, version and block_len",
        covers(without_magic),
        "header_mac",
        "header_mac",
    );
    let zeros = [&forge.block()[..len - 32], &[0; 32]].concat();
    kit.refuses("mac-zero", "KEY-1: a header_mac of zeros", covers(zeros), "header_mac", "header_mac");
    let head = forge.head(0, 0, b"");
    let sealed = |segment: Vec<u8>| [forge.block(), head.clone(), segment].concat();
    let other_salt = Forge { salt: [0; 16], ..forge.clone() };
    kit.refuses(
        "payload-under-another-salt",
        "a payload key that is not of this salt",
        sealed(other_salt.segment(0, 0, true, &head, PAYLOAD)),
        "tag",
        "tag",
    );
    let other_dek = Forge { dek: [0; 32], ..forge.clone() };
    kit.refuses(
        "payload-under-another-dek",
        "a payload key that is not of this DEK",
        sealed(other_dek.segment(0, 0, true, &head, PAYLOAD)),
        "tag",
        "tag",
    );
    for label in ["sealwire v1 header", "sealwire v1 commit", "sealwire v1 chain", "payload"] {
        let segment =
            forge.segment_with(&forge.keys().derive(label), &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], &head, PAYLOAD, true);
        let name = label.replace("sealwire v1 ", "");
        kit.refuses(
            &format!("payload-key-label-{name}"),
            "a payload sealed under a key of another label",
            sealed(segment),
            "tag",
            "tag",
        );
    }
    let payload_key = forge.keys().derive("sealwire v1 payload");
    for (name, nonce) in [
        ("final-missing", [0u8; 12]),
        ("segment-first", [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("little-endian", [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
        ("final-in-the-top-bit", [0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0]),
    ] {
        let segment = forge.segment_with(&payload_key, &nonce, &head, PAYLOAD, true);
        kit.refuses(&format!("nonce-{name}"), "KEY-7: a nonce that is not seq, segment and final", sealed(segment), "tag", "tag");
    }
    for (name, aad) in [
        ("empty", vec![]),
        ("without-seq", head[8..].to_vec()),
        ("with-block", [forge.block(), head.clone()].concat()),
        ("with-a-zero", [&head[..], &[0]].concat()),
    ] {
        kit.refuses(
            &format!("aad-{name}"),
            "segment 0 sealed with another AAD",
            sealed(forge.segment(0, 0, true, &aad, PAYLOAD)),
            "tag",
            "tag",
        );
    }
}

fn padding(kit: &mut Kit) {
    let message = |plaintext: &[u8]| Forge { segment_log2: 12, ..forge() }.envelope(0, PADDED, b"", plaintext);
    for (len, padded) in [(0, 8), (1, 10), (100, 112), (4089, 4352)] {
        kit.opens(&format!("padded-{len}"), "a padded payload", message(&pad(&text(len), padded)), b"", &text(len));
    }
    for (name, plaintext) in [
        ("not-at-all", text(14)),
        ("one-more", pad(b"hi", 11)),
        ("next-length", pad(b"hi", 12)),
        ("shorter-than-its-length", text(7)),
        ("empty", vec![]),
        ("length-over", [&[0; 2][..], &3u64.to_be_bytes()].concat()),
        ("length-huge", [&[0; 2][..], &u64::MAX.to_be_bytes()].concat()),
        ("length-overflow", [&[0; 2][..], &(u64::MAX - 7).to_be_bytes()].concat()),
        ("length-little-endian", [&b"hi"[..], &2u64.to_le_bytes()].concat()),
        ("not-zero", [&b"h\x01"[..], &1u64.to_be_bytes()].concat()),
        ("not-zero-late", [&text(100)[..], &[0, 0, 0, 1], &100u64.to_be_bytes()].concat()),
    ] {
        kit.refuses(
            &format!("padding-{name}"),
            "PAD-2, PAD-3, PAD-4: padding that is not what the length gives",
            message(&plaintext),
            "content",
            "content",
        );
    }
    // Padmé(18) is 18: ten bytes need no padding.
    kit.opens(
        "padded-without-zeros",
        "a length that is a Padmé length already",
        message(&pad(b"hello, you", 18)),
        b"",
        b"hello, you",
    );
}

fn limits(kit: &mut Kit) {
    let forge = Forge { segment_log2: 24, ..forge() };
    let front = [forge.block(), forge.head(0, 0, b"")].concat();
    let full = [&((1u32 << 24) + 16).to_be_bytes()[..], &vec![0; (1 << 24) + 16]].concat();
    let more = [&(1u32 << 31 | 17).to_be_bytes()[..], &[0; 17]].concat();
    kit.refuses(
        "message-over-16-mib",
        "LIM-3: a message of 16 MiB and a byte, refused before any tag",
        [front, full, more].concat(),
        "limit",
        "limit",
    );
    let many = |n: usize| {
        let mut forge = Forge { options: 0, ..Forge::to(&[]) };
        let stranger = forge.slot(&other(), &[1; 32]);
        forge.slots = vec![stranger; n - 1];
        forge.slots.push(forge.slot(&key(), &forge.dek));
        forge.envelope(0, 0, b"", PAYLOAD)
    };
    kit.opens("recipients-1024", "as many slots as the default limit, one trial", many(1024), b"", PAYLOAD);
    kit.refuses("recipients-1025", "LIM-1: a slot more than the limit", many(1025), "limit", "limit");
    let mut claimed = forge.envelope(0, 0, b"", PAYLOAD);
    claimed[10..12].copy_from_slice(&[0xff, 0xff]);
    kit.refuses("recipients-65535-declared", "LIM-1: 65,535 slots declared and one there", claimed, "limit", "limit");
    // One enc, and slots of other DEKs under the reader's hint before his own.
    let others = |n: usize| {
        let mut forge = Forge::to(&[]);
        forge.slots = (0..n).map(|i| forge.slot(&key(), &[i as u8; 32])).collect();
        let own = forge.slot(&key(), &forge.dek);
        forge.slots.push(own);
        forge.envelope(0, 0, b"", PAYLOAD)
    };
    kit.opens(
        "trials-63-other-deks",
        "WRAP-6: one decapsulation, and 63 DEKs that are not the block's",
        others(63),
        b"",
        PAYLOAD,
    );
    kit.refuses("trials-64-other-deks", "WRAP-6: a DEK that is not the block's is a trial", others(64), "limit", "limit");
}

pub(super) fn first() -> Forge {
    Forge { segment_log2: 12, ..forge() }
}

pub(super) fn second() -> Forge {
    let forge = Forge { salt: [0x6b; 16], dek: [0xd2; 32], ..Forge::to(&[]) };
    Forge { slots: vec![forge.slot(&key(), &forge.dek)], ..forge }
}

pub fn chain(forge: &Forge) -> [u8; 32] {
    forge.keys().derive("sealwire v1 chain")
}

/// Two epochs of two messages and a notice.
fn two_epochs() -> Vec<Vec<u8>> {
    let (a, b) = (first(), second());
    vec![
        a.envelope_bound(0, CHANNEL, b"", b"zero", b"", BINDING),
        a.follow_up(1, CHANNEL, b"", b"one", BINDING),
        b.envelope_bound(2, CHANNEL, b"", b"two", &chain(&a), BINDING),
        b.follow_up(3, CHANNEL, b"", b"three", BINDING),
        b.follow_up(4, CHANNEL | LAST, b"", b"", BINDING),
    ]
}

const WORDS: [&[u8]; 4] = [b"zero", b"one", b"two", b"three"];

fn channels(kit: &mut Kit) {
    let good = two_epochs();
    let (a, b) = (first(), second());
    kit.channel("channel", "two epochs and a notice of the end", &good, &WORDS, None);
    kit.channel(
        "channel-notice-alone",
        "CHN-15: nothing but a notice",
        &[a.envelope_bound(0, CHANNEL | LAST, b"", b"", b"", BINDING)],
        &[],
        None,
    );
    kit.channel(
        "channel-padded-notice",
        "CHN-15: a notice that is padded",
        &[a.envelope_bound(0, CHANNEL | LAST | PADDED, b"", &pad(b"", 8), b"", BINDING)],
        &[],
        None,
    );
    kit.channel(
        "channel-last-with-payload",
        "a last message that is delivered",
        &[a.envelope_bound(0, CHANNEL | LAST, b"", b"bye", b"", BINDING)],
        &[b"bye"],
        None,
    );
    kit.channel(
        "channel-last-empty-in-a-batch",
        "CHN-13: an empty last message",
        &[a.envelope_bound(0, CHANNEL | LAST | BATCH, b"", &batch(&[b""]), b"", BINDING)],
        &[b""],
        None,
    );
    kit.channel(
        "channel-empty-message",
        "an empty message that is not the last",
        &[
            a.envelope_bound(0, CHANNEL, b"", b"", b"", BINDING),
            good[1].clone(),
            a.follow_up(2, CHANNEL | LAST, b"", b"", BINDING),
        ],
        &[b"", b"one"],
        None,
    );
    kit.channel(
        "channel-padded",
        "padded messages",
        &[
            a.envelope_bound(0, CHANNEL | PADDED, b"", &pad(b"zero", 12), b"", BINDING),
            a.follow_up(1, CHANNEL | PADDED | LAST, b"", &pad(b"one", 11 + 1), BINDING),
        ],
        &[b"zero", b"one"],
        None,
    );
    let large = text(9000);
    kit.channel(
        "channel-segments",
        "messages of several segments",
        &[a.envelope_bound(0, CHANNEL, b"", &large, b"", BINDING), a.follow_up(1, CHANNEL | LAST, b"", &large, BINDING)],
        &[&large, &large],
        None,
    );
    let acceptor = Kit::add(
        kit,
        "channel-of-the-acceptor",
        "CHN-11: replies, bound to the first block",
        [
            a.envelope_bound(0, CHANNEL | ACCEPTOR, b"", b"re: zero", b"", &[&[0x77; 32], BINDING].concat()),
            a.follow_up(1, CHANNEL | ACCEPTOR | LAST, b"", b"re: one", &[&[0x77; 32], BINDING].concat()),
        ]
        .concat(),
    );
    acceptor.way = Way::Initiator;
    acceptor.binding = [&[0x77; 32], BINDING].concat();
    acceptor.released = vec![(vec![], b"re: zero".to_vec()), (vec![], b"re: one".to_vec())];
    let contexts = Kit::add(
        kit,
        "channel-contexts",
        "a context for each message",
        [a.envelope_bound(0, CHANNEL, b"c0", b"zero", b"", BINDING), a.follow_up(1, CHANNEL | LAST, b"c1", b"one", BINDING)]
            .concat(),
    );
    contexts.way = Way::Acceptor;
    contexts.binding = BINDING.to_vec();
    contexts.released = vec![(b"c0".to_vec(), b"zero".to_vec()), (b"c1".to_vec(), b"one".to_vec())];
    let malformed = |layer| Some((layer, "malformed"));
    for (i, piece) in good.iter().enumerate() {
        let before: Vec<&[u8]> = WORDS[..i.min(4)].to_vec();
        kit.channel(
            &format!("channel-ends-before-{i}"),
            "CHN-9: the connection ends between two messages",
            &good[..i],
            &before,
            Some(("end", "truncated")),
        );
        let mut cut = good[..=i].to_vec();
        cut[i].truncate(piece.len() - 1);
        kit.channel(
            &format!("channel-ends-in-{i}"),
            "CHN-9: the connection ends inside a message",
            &cut,
            &before,
            Some(("end", "truncated")),
        );
        let mut flipped = good.clone();
        *flipped[i].last_mut().unwrap() ^= 1;
        kit.channel(
            &format!("channel-flip-in-{i}"),
            "CHN-14: a flipped bit ends the channel",
            &flipped,
            &before,
            Some(("tag", "tag")),
        );
    }
    for (i, piece) in good.iter().enumerate() {
        let before: Vec<&[u8]> = WORDS[..i.min(4)].to_vec();
        for at in [1, 3, piece.len() / 2, piece.len() - 18] {
            let mut cut = good[..=i].to_vec();
            cut[i].truncate(at);
            kit.channel(
                &format!("channel-ends-in-{i}-at-{at}"),
                "CHN-9: the connection ends inside a message",
                &cut,
                &before,
                Some(("end", "truncated")),
            );
        }
        let mut flip = |name: &str, back: usize| {
            let mut flipped = good.clone();
            let at = piece.len() - back;
            flipped[i][at] ^= 0x40;
            let shows = format!("CHN-14: a flipped bit in the {name} ends the channel");
            kit.channel(&format!("channel-{name}-in-{i}"), &shows, &flipped, &before, Some(("tag", "tag")));
        };
        flip("tag", 16);
        // The notice has no ciphertext.
        if i < 4 {
            flip("ciphertext", 17);
        }
        let mut context = good.clone();
        let at = if piece[0] == 1 { 3 } else { 164 };
        context[i][at] = 1;
        let shows = "a context_len that takes a byte of the prefix";
        kit.channel(&format!("channel-context-len-in-{i}"), shows, &context, &before, Some(("segments", "malformed")));
    }
    kit.channel("channel-starts-with-follow-up", "CHN-3: a follow-up first", &good[1..], &[], malformed("head"));
    kit.channel("channel-starts-with-renewal", "CHN-3: a renewal first", &good[2..], &[], malformed("head"));
    for (name, seq) in [("one", 1u64), ("most", u64::MAX)] {
        kit.channel(
            &format!("channel-first-seq-{name}"),
            "CHN-3: a first message whose seq is not 0",
            &[a.envelope_bound(seq, CHANNEL, b"", b"zero", b"", BINDING)],
            &[],
            malformed("head"),
        );
    }
    for seq in [0u64, 1, 3, u64::MAX] {
        let renewal = b.envelope_bound(seq, CHANNEL, b"", b"two", &chain(&a), BINDING);
        kit.channel(
            &format!("channel-renewal-seq-{seq}"),
            "CHN-4: a renewal whose seq is not the next",
            &[good[0].clone(), good[1].clone(), renewal],
            &WORDS[..2],
            malformed("head"),
        );
    }
    for (name, chain) in
        [("missing", Vec::new()), ("zero", vec![0; 32]), ("of-itself", chain(&b).to_vec()), ("twice", chain(&a).repeat(2))]
    {
        let renewal = b.envelope_bound(2, CHANNEL, b"", b"two", &chain, BINDING);
        kit.channel(
            &format!("channel-chain-{name}"),
            "CHN-7: a renewal that does not know the epoch before it",
            &[good[0].clone(), good[1].clone(), renewal],
            &WORDS[..2],
            Some(("tag", "tag")),
        );
    }
    kit.channel(
        "channel-chain-in-first",
        "CHN-7: a first message with a chain",
        &[a.envelope_bound(0, CHANNEL, b"", b"zero", &chain(&b), BINDING)],
        &[],
        Some(("tag", "tag")),
    );
    kit.channel(
        "channel-chain-in-follow-up",
        "CHN-7: a follow-up with a chain",
        &[good[0].clone(), {
            let with = [&chain(&a)[..], BINDING].concat();
            a.follow_up(1, CHANNEL, b"", b"one", &with)
        }],
        &WORDS[..1],
        Some(("tag", "tag")),
    );
    let same = a.envelope_bound(2, CHANNEL, b"", b"two", &chain(&a), BINDING);
    kit.channel(
        "channel-renewal-same-salt",
        "CHN-5: a renewal with the salt of the epoch before it",
        &[good[0].clone(), good[1].clone(), same],
        &WORDS[..2],
        malformed("block"),
    );
    kit.channel(
        "channel-without-flag",
        "CHN-1: an envelope without the channel flag",
        &[a.envelope_bound(0, 0, b"", b"zero", b"", BINDING)],
        &[],
        malformed("head"),
    );
    kit.channel(
        "channel-follow-up-without-flag",
        "CHN-1: a follow-up without the channel flag",
        &[good[0].clone(), a.follow_up(1, 0, b"", b"one", BINDING)],
        &WORDS[..1],
        malformed("head"),
    );
    kit.channel(
        "channel-own-side",
        "CHN-10: a message from the reader's own side",
        &[a.envelope_bound(0, CHANNEL | ACCEPTOR, b"", b"zero", b"", BINDING)],
        &[],
        malformed("head"),
    );
    kit.channel(
        "channel-own-side-later",
        "CHN-10: a follow-up from the reader's own side",
        &[good[0].clone(), a.follow_up(1, CHANNEL | ACCEPTOR, b"", b"one", BINDING)],
        &WORDS[..1],
        malformed("head"),
    );
    for bit in 5..8 {
        kit.channel(
            &format!("channel-follow-up-flag-{bit}"),
            "HEAD-3: a reserved flag bit of a follow-up",
            &[good[0].clone(), a.follow_up(1, CHANNEL | 1 << bit, b"", b"one", BINDING)],
            &WORDS[..1],
            Some(("head", "unsupported")),
        );
    }
    for kind in [0u8, 2, 0x52, 0xff] {
        let mut odd = good[1].clone();
        odd[0] = kind;
        kit.channel(
            &format!("channel-type-{kind:02x}"),
            "HEAD-1: a message of an unknown type",
            &[good[0].clone(), odd],
            &WORDS[..1],
            Some(("head", "unsupported")),
        );
    }
    kit.channel(
        "channel-follow-up-context-over",
        "LIM-2: a follow-up whose context is over the limit",
        &[good[0].clone(), a.follow_up(1, CHANNEL, &[1; 8193], b"one", BINDING)],
        &WORDS[..1],
        Some(("limit", "limit")),
    );
    for (name, more) in [
        ("byte", vec![1u8]),
        ("follow-up", b.follow_up(5, CHANNEL, b"", b"more", BINDING)),
        ("envelope", a.envelope_bound(5, CHANNEL, b"", b"more", &chain(&b), BINDING)),
        ("zero", vec![0]),
    ] {
        kit.channel(
            &format!("channel-after-last-{name}"),
            "CHN-8: something after the last message",
            &[good.clone(), vec![more]].concat(),
            &WORDS,
            Some(("end", "trailing")),
        );
    }
    kit.channel(
        "channel-renewal-for-another",
        "a renewal that is not sealed to the reader",
        &[good[0].clone(), good[1].clone(), {
            let c = Forge { salt: [0x7c; 16], ..Forge::to(&[]) };
            let c = Forge { slots: vec![c.slot(&other(), &c.dek)], ..c };
            c.envelope_bound(2, CHANNEL, b"", b"two", &chain(&a), BINDING)
        }],
        &WORDS[..2],
        Some(("key", "nokey")),
    );
    let mut mac = good.clone();
    mac[2][130] ^= 1;
    kit.channel(
        "channel-renewal-header-mac",
        "KEY-1: a renewal whose header_mac does not hold",
        &mac,
        &WORDS[..2],
        Some(("header_mac", "header_mac")),
    );
}

/// Every byte of a message's fixed fields, changed: what each of them is protected by.
fn bytes_of_the_block(kit: &mut Kit) {
    let whole = forge().envelope(0, 0, b"ctx", PAYLOAD);
    for at in (21..37).step_by(3) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        kit.refuses(
            &format!("flip-salt-{at}"),
            "a flipped bit of the salt: the hint is another, and no key fits",
            changed,
            "key",
            "nokey",
        );
    }
    for at in (37..69).step_by(4) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        kit.refuses(&format!("flip-enc-{at}"), "a flipped bit of enc", changed, "key", "nokey");
    }
    for at in (73..121).step_by(5) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        kit.refuses(&format!("flip-wrapped-dek-{at}"), "a flipped bit of the ciphertext DEK", changed, "key", "nokey");
    }
    for at in (121..153).step_by(4) {
        let mut changed = whole.clone();
        changed[at] ^= 0x80;
        kit.refuses(&format!("flip-header-mac-{at}"), "KEY-1: a flipped bit of header_mac", changed, "header_mac", "header_mac");
    }
    for at in 13..21 {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let (layer, answer) = if at < 16 { ("block", "malformed") } else { ("header_mac", "header_mac") };
        kit.refuses(&format!("flip-created-at-{at}"), "a flipped bit of created_at", changed, layer, answer);
    }
    for at in 153..161 {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        kit.refuses(&format!("flip-seq-{at}"), "a flipped bit of seq", changed, "tag", "tag");
    }
}

fn attacks(kit: &mut Kit) {
    let good = two_epochs();
    let (a, b) = (first(), second());
    for i in 0..4 {
        let before: Vec<&[u8]> = WORDS[..i].to_vec();
        let mut dropped = good.clone();
        dropped.remove(i);
        // What stands there then decides where it is noticed: a head that cannot be, or a tag.
        let (layer, answer) = match i {
            0 | 1 => ("head", "malformed"),
            _ => ("tag", "tag"),
        };
        kit.channel(&format!("channel-dropped-{i}"), "CHN-4: a message is missing", &dropped, &before, Some((layer, answer)));
        let mut swapped = good.clone();
        swapped.swap(i, i + 1);
        let (layer, answer) = match i {
            0 | 1 => ("head", "malformed"),
            _ => ("tag", "tag"),
        };
        kit.channel(
            &format!("channel-swapped-{i}"),
            "CHN-4: a message and the next one swapped",
            &swapped,
            &before,
            Some((layer, answer)),
        );
        let mut repeated = good.clone();
        repeated.insert(i, good[i].clone());
        let once: Vec<&[u8]> = WORDS[..=i].to_vec();
        let (layer, answer) = match i {
            0 | 2 => ("head", "malformed"),
            _ => ("tag", "tag"),
        };
        kit.channel(&format!("channel-repeated-{i}"), "CHN-4: a message twice", &repeated, &once, Some((layer, answer)));
    }
    let foreign = Forge { dek: [9; 32], salt: [9; 16], ..Forge::to(&[]) };
    let foreign = Forge { slots: vec![foreign.slot(&key(), &foreign.dek)], ..foreign };
    let inserted = foreign.envelope_bound(2, CHANNEL, b"", b"evil", b"", BINDING);
    kit.channel(
        "channel-inserted-epoch",
        "CHN-7: an epoch made by somebody who has only the recipient",
        &[good[0].clone(), good[1].clone(), inserted],
        &WORDS[..2],
        Some(("tag", "tag")),
    );
    let spliced = b.envelope_bound(2, CHANNEL, b"", b"two", &chain(&foreign), BINDING);
    kit.channel(
        "channel-spliced-epoch",
        "CHN-7: a renewal of another connection",
        &[good[0].clone(), good[1].clone(), spliced],
        &WORDS[..2],
        Some(("tag", "tag")),
    );
    let skipped = b.envelope_bound(1, CHANNEL, b"", b"two", &chain(&foreign), BINDING);
    kit.channel(
        "channel-skipped-epoch",
        "CHN-7: an epoch left out, the next one renumbered",
        &[good[0].clone(), skipped],
        &WORDS[..1],
        Some(("tag", "tag")),
    );
    let other_follow_up = foreign.follow_up(1, CHANNEL, b"", b"one", BINDING);
    kit.channel(
        "channel-spliced-follow-up",
        "a follow-up of another channel",
        &[good[0].clone(), other_follow_up],
        &WORDS[..1],
        Some(("tag", "tag")),
    );
    let dressed = [&a.block()[..], &a.head(1, CHANNEL, b""), &good[1][4..]].concat();
    kit.channel(
        "channel-follow-up-as-envelope",
        "CHN-5: a follow-up dressed up as an envelope",
        &[good[0].clone(), dressed.clone()],
        &WORDS[..1],
        Some(("block", "malformed")),
    );
    kit.refuses(
        "follow-up-as-envelope",
        "CHN-2: a follow-up dressed up as an envelope, by itself",
        dressed.clone(),
        "head",
        "malformed",
    )
    .binding = BINDING.to_vec();
    let mut cleared = dressed;
    cleared[162] = 0;
    kit.refuses("follow-up-as-envelope-flag-cleared", "CHN-2: the same with the channel flag cleared", cleared, "tag", "tag")
        .binding = BINDING.to_vec();
    let undressed = [&[1u8, CHANNEL, 0, 0][..], &good[2][165..]].concat();
    kit.channel(
        "channel-renewal-as-follow-up",
        "a renewal undressed to a follow-up",
        &[good[0].clone(), good[1].clone(), undressed],
        &WORDS[..2],
        Some(("tag", "tag")),
    );
    let replayed =
        Kit::add(kit, "channel-replayed", "a recorded connection, played to a reader with another greeting", good.concat());
    (replayed.way, replayed.binding, replayed.refused) = (Way::Acceptor, b"another greeting".to_vec(), Some(("tag", "tag")));
    let reflected = Kit::add(kit, "channel-reflected", "CHN-10: what the initiator sent, sent back to it", good.concat());
    (reflected.way, reflected.binding, reflected.refused) = (Way::Initiator, BINDING.to_vec(), Some(("head", "malformed")));
    let reply = a.envelope_bound(0, CHANNEL | ACCEPTOR, b"", b"re: zero", b"", &[&[0x77; 32], BINDING].concat());
    let swapped = Kit::add(kit, "channel-reply-to-another", "CHN-11: a reply to another request", reply);
    (swapped.way, swapped.binding, swapped.refused) = (Way::Initiator, [&[0x78; 32], BINDING].concat(), Some(("tag", "tag")));
    let mut last_set = good.clone();
    last_set[1][1] |= LAST;
    kit.channel("channel-last-set", "a message made the last by somebody else", &last_set, &WORDS[..1], Some(("tag", "tag")));
    let mut last_cleared = good.clone();
    last_cleared[4][1] &= !LAST;
    kit.channel("channel-last-cleared", "the last message made an ordinary one", &last_cleared, &WORDS, Some(("tag", "tag")));
    let single = a.envelope(0, 0, b"", b"zero");
    kit.channel(
        "channel-single-message",
        "CHN-1: a self-contained message on a channel",
        &[single],
        &[],
        Some(("head", "malformed")),
    );
}

fn batches(kit: &mut Kit) {
    let a = first();
    let one = |payload: &[u8], flags: u8| vec![a.envelope_bound(0, CHANNEL | BATCH | flags, b"", payload, b"", BINDING)];
    kit.channel(
        "batch",
        "several messages under one tag",
        &one(&batch(&[b"zero", b"", b"two"]), LAST),
        &[b"zero", b"", b"two"],
        None,
    );
    kit.channel("batch-of-one", "a batch of one", &one(&batch(&[b"zero"]), LAST), &[b"zero"], None);
    let many: Vec<&[u8]> = vec![b"x"; 3000];
    kit.channel("batch-over-segments", "a batch of several segments", &one(&batch(&many), LAST), &many, None);
    kit.channel(
        "batch-padded",
        "a batch that is padded",
        &one(&pad(&batch(&[b"zero", b"one"]), 24), LAST | PADDED),
        &[b"zero", b"one"],
        None,
    );
    let zero = batch(&[b"zero"]);
    for (name, payload) in [
        ("empty", Vec::new()),
        ("length-cut", zero[..3].to_vec()),
        ("entry-cut", zero[..7].to_vec()),
        ("byte-more", [&zero[..], &[0]].concat()),
        ("second-cut", [&zero[..], &[0, 0, 0, 9, 1]].concat()),
        ("huge-entry", vec![0xff; 8]),
        ("little-endian", [&4u32.to_le_bytes()[..], b"zero"].concat()),
        ("no-framing", b"zero".to_vec()),
    ] {
        kit.channel(
            &format!("batch-{name}-refused"),
            "BAT-1, BAT-3: a batch whose framing breaks delivers nothing",
            &one(&payload, 0),
            &[],
            Some(("content", "content")),
        );
    }
    let most: Vec<&[u8]> = vec![b""; 65_536];
    kit.channel("batch-65536", "BAT-2: as many entries as there may be", &one(&batch(&most), LAST), &most, None);
    let over: Vec<&[u8]> = vec![b""; 65_537];
    kit.channel("batch-65537-refused", "BAT-2: an entry more", &one(&batch(&over), LAST), &[], Some(("content", "content")));
    kit.channel(
        "batch-padding-wrong",
        "PAD-3: a batch whose padding is wrong",
        &one(&pad(&zero, 17), PADDED),
        &[],
        Some(("content", "content")),
    );
}
