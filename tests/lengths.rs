//! Every length that is computed, at its limits, beside the same sum in numbers that cannot overflow. All of it holds where an
//! address has 32 bits too: `cargo test --target i686-unknown-linux-gnu`.

use sealwire::{
    Cmk, LimitExceeded, Limits, Opener, ParseError, Reuse, Sealer,
    wire::{
        DekBlock, External, Externals, HintMode, MAX_SEGMENTS, Options, Reader, SEGMENT_LOG2_MAX, SEGMENT_LOG2_MIN, SegmentPlan,
        SegmentPrefix, SlotLayout, Slots, Splitter, Suite, batch,
    },
};

const UNLIMITED: Limits = Limits {
    block: u64::MAX,
    recipients: u64::MAX,
    externals: u64::MAX,
    context: u64::MAX,
    message: u64::MAX,
    segment: u64::MAX,
    trials: u64::MAX,
    batch_entries: u64::MAX,
};

fn wide(n: usize) -> u128 {
    n as u128
}

/// Lengths on both sides of every power of two, and at the end of the address space.
fn lengths() -> impl Iterator<Item = usize> {
    let around = |n: usize| (0..4).flat_map(move |off| [n.saturating_sub(off), n.saturating_add(off)]);
    (0..usize::BITS).flat_map(move |e| around(1 << e)).chain(around(usize::MAX)).chain(around(usize::MAX / 2))
}

/// Segment counts, ranges, offsets and sums: either they are what wide numbers say, or the plan is refused because of what
/// wide numbers say.
#[test]
fn segments_are_counted_right_or_not_at_all() {
    let (mut planned, mut refused) = (0, 0);
    for (n, log2) in lengths().flat_map(|n| (SEGMENT_LOG2_MIN..=SEGMENT_LOG2_MAX).map(move |log2| (n, log2))) {
        let size = 1u128 << log2;
        let segments = wide(n).div_ceil(size).max(1);
        let sealed = wide(n) + 20 * segments;
        let Ok(plan) = SegmentPlan::new(n, log2) else {
            assert!(segments > MAX_SEGMENTS.into() || sealed > wide(isize::MAX as usize), "{n} {log2}");
            refused += 1;
            continue;
        };
        assert!(segments <= MAX_SEGMENTS.into() && sealed <= wide(isize::MAX as usize), "{n} {log2}");
        assert_eq!((wide(plan.segments()), wide(plan.sealed_len())), (segments, sealed), "{n} {log2}");
        let last = plan.segments() - 1;
        for i in [0, 1, last / 2, last.saturating_sub(1), last].into_iter().filter(|i| *i <= last) {
            let (start, end) = (wide(i) * size, (wide(i + 1) * size).min(wide(n)));
            let (range, prefix) = (plan.plaintext_range(i), plan.prefix(i));
            assert_eq!((wide(range.start), wide(range.end)), (start, end), "{n} {log2} {i}");
            assert_eq!(wide(plan.sealed_offset(i)), wide(i) * (size + 20), "{n} {log2} {i}");
            assert_eq!((u128::from(prefix.ciphertext), prefix.last), (end - start, i == last), "{n} {log2} {i}");
            let again = SegmentPrefix::parse(&mut Reader::new(&prefix.encode(), 0), i as u64, log2);
            assert_eq!(again, Ok(prefix), "{n} {log2} {i}");
        }
        planned += 1;
    }
    assert!(planned > 1000 && refused > 50, "{planned} {refused}");
}

/// The largest external that there is.
fn external() -> Vec<u8> {
    let mut out = Vec::new();
    External { provider: &"p".repeat(32), key_ref: &"k".repeat(2048), blob: &[7; 6144] }.encode(&mut out).unwrap();
    assert_eq!(out.len(), 1 + 32 + 2 + 2048 + 2 + 6144);
    out
}

/// The largest blocks: 65,535 slots in each layout and 255 externals, with a proof. block_len is their sum, and what is written
/// is read.
#[test]
fn the_largest_blocks() {
    let externals = external().repeat(255);
    for (suite, enc_per_slot, slot) in [
        (Suite::X25519ChaCha20Poly1305, false, 52),
        (Suite::X25519Aes256Gcm, true, 84),
        (Suite::XWingChaCha20Poly1305, false, 1172),
    ] {
        let options = Options { hints: HintMode::Rotating, enc_per_slot, sender_proof: true, ..Options::default() };
        let layout = SlotLayout::of(suite, options);
        assert_eq!(layout.slot_len(), slot);
        let slots = vec![0x5a; 65_535 * slot];
        let shared = [3; 32];
        let block = DekBlock {
            suite,
            options,
            created_at: 0,
            salt: &[1; 16],
            enc: (layout == SlotLayout::SharedEnc).then_some(&shared),
            slots: Slots::new(&slots, layout),
            externals: Externals::new(&externals, 255),
            sender_proof: Some(&[2; 128]),
            header_mac: &[4; 32],
        };
        let enc = if layout == SlotLayout::SharedEnc { 32 } else { 0 };
        let sum = 69 + enc + 65_535 * slot as u64 + 255 * 8229 + 128;
        assert_eq!(block.encoded_len() as u64, sum);
        assert!(block.check_limits(&UNLIMITED).is_ok());
        let exact = Limits { block: sum, recipients: 65_535, externals: 255, ..Limits::default() };
        assert!(block.check_limits(&exact).is_ok());
        let mut out = Vec::with_capacity(block.encoded_len());
        block.encode(&mut out);
        assert_eq!((out.len() as u64, u32::from_be_bytes(out[4..8].try_into().unwrap())), (sum, sum as u32));
        assert!(DekBlock::parse(&out, &exact).is_ok_and(|(raw, parsed)| raw == out && parsed == block));
        let less = Limits { block: sum - 1, ..exact };
        let over = LimitExceeded { limit: "block", value: sum, maximum: sum - 1 };
        assert_eq!(block.check_limits(&less), Err(over));
        assert_eq!(DekBlock::parse(&out, &less).unwrap_err(), over.into());
    }
}

/// One slot more than slot_count can say is no block, whatever the limits.
#[test]
fn more_slots_than_can_be_counted() {
    let slots = vec![0; 65_536 * 52];
    let block = DekBlock {
        suite: Suite::X25519ChaCha20Poly1305,
        options: Options { hints: HintMode::Rotating, ..Options::default() },
        created_at: 0,
        salt: &[1; 16],
        enc: Some(&[3; 32]),
        slots: Slots::new(&slots, SlotLayout::SharedEnc),
        externals: Externals::new(&[], 0),
        sender_proof: None,
        header_mac: &[4; 32],
    };
    assert_eq!(block.slots.len(), 65_536);
    assert!(!block.slots.is_empty() && block.externals.is_empty());
    let over = LimitExceeded { limit: "recipients", value: 65_536, maximum: 65_535 };
    assert_eq!(block.check_limits(&UNLIMITED), Err(over));
}

/// Lengths that a peer declares and does not send: each is refused or waited for, at its full value, and nothing is added to it
/// that it has no room for.
#[test]
fn declared_lengths_at_their_largest() {
    let block = [&b"SWE\x01\xff\xff\xff\xff\x01\x01"[..], &[0; 60]].concat();
    let needed = u64::from(u32::MAX);
    assert!(matches!(
        DekBlock::parse(&block, &UNLIMITED),
        Err(ParseError::Truncated { field: "dek block", offset: 0, needed: n, .. }) if n == needed
    ));
    assert_eq!(DekBlock::declared_len(&block, &UNLIMITED).unwrap().map(|n| n as u64), Some(needed));
    assert_eq!(Splitter::new(UNLIMITED).next(&block), Ok(None));
    // 65,535 slots of the longest kind, in a block that has room for none of them.
    let mut slots = [&b"SWE\x01\0\0\0\x45\x03\x01\xff\xff\xff"[..], &[0; 56]].concat();
    assert!(matches!(DekBlock::parse(&slots, &UNLIMITED), Err(ParseError::Malformed { field: "slots", .. })));
    slots[4..8].copy_from_slice(&[0xff; 4]);
    assert!(matches!(DekBlock::parse(&slots, &UNLIMITED), Err(ParseError::Truncated { .. })));
    // A batch's entry, and a segment.
    assert!(matches!(batch::check(b"\xff\xff\xff\xff1", &UNLIMITED), Err(ParseError::Malformed { .. })));
    for word in [u32::MAX, u32::MAX >> 1, 1 << 31, (1 << 24) + 17, (1 << 31) | ((1 << 24) + 17)] {
        let parsed = SegmentPrefix::parse(&mut Reader::new(&word.to_be_bytes(), 0), 0, SEGMENT_LOG2_MAX);
        assert!(matches!(parsed, Err(ParseError::Malformed { .. })), "{word:x}");
    }
}

/// Offsets count as far as 64 bits go, and then stand still: no error is ever reported at a small offset that is none.
#[test]
fn offsets_stop_at_the_end() {
    let mut reader = Reader::new(&[0; 8], u64::MAX - 3);
    reader.take(2, "x").unwrap();
    assert_eq!(reader.offset(), u64::MAX - 1);
    reader.take(4, "x").unwrap();
    assert_eq!(reader.offset(), u64::MAX);
    let short = reader.take(usize::MAX, "x").unwrap_err();
    assert_eq!(short, ParseError::Truncated { field: "x", offset: u64::MAX, needed: usize::MAX as u64, available: 2 });
    assert_eq!(short.clone().shifted(u64::MAX), short);
    let over = ParseError::from(LimitExceeded { limit: "x", value: u64::MAX, maximum: 0 });
    assert_eq!(over.clone().shifted(1), over);
}

/// A DEK carries as many bytes of plaintext as the sender has set, to the byte, and no more.
#[test]
fn a_dek_is_spent_to_the_byte() {
    let cmk = Cmk::from_x25519(&[1; 32]);
    for most in [0, 1, 100, u64::MAX] {
        let reuse = Reuse { bytes: most, messages: u64::MAX, ..Reuse::default() };
        let mut sealer = Sealer::builder().to(cmk.recipient().clone()).limits(UNLIMITED).reuse(reuse).build().unwrap();
        let mut salt = |len: usize| <[u8; 16]>::try_from(&sealer.seal(b"", &vec![7; len]).unwrap()[21..37]).unwrap();
        let most = most.min(1000) as usize;
        // A message that is too long by itself has a DEK to itself.
        let alone = salt(most + 1);
        let first = salt(most / 2);
        assert_eq!(first == alone, reuse.bytes == u64::MAX);
        assert_eq!(first, salt(most - most / 2), "{most}");
        assert_eq!(first == salt(1), reuse.bytes == u64::MAX, "{most}");
    }
}

/// No limit at all is a limit like the others: sums do not overflow on the way to it.
#[test]
fn without_limits() {
    let cmk = Cmk::from_x25519(&[1; 32]);
    let policy = sealwire::Policy { limits: UNLIMITED, ..sealwire::Policy::default() };
    let to = cmk.recipient().clone();
    let opener = Opener::builder(cmk.into()).policy(policy).build();
    for pad in [false, true] {
        let mut sealer = Sealer::builder().to(to.clone()).limits(UNLIMITED).pad(pad).segment_log2(12).build().unwrap();
        let payload = vec![5; 100_000];
        let envelope = sealer.seal(&[9; 65_535], &payload).unwrap();
        let opened = opener.open(&envelope).unwrap();
        assert!(opened.payload == payload && opened.context.len() == 65_535);
        assert_eq!(Splitter::new(UNLIMITED).next(&envelope), Ok(Some(envelope.len())));
        assert!(sealer.seal(&vec![9; 65_536], b"").is_err(), "context_len has 16 bits");
    }
}
