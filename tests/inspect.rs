//! The inspector: what it says of each field, and that its errors are those of reading.

use kit::Forge;
use sealwire::{
    ParseError,
    open::untrusted::Message,
    wire::{
        Limits, Opening,
        inspect::{Inspected, Inspector},
    },
};

mod kit;

const KEY: [u8; 32] = [1; 32];

fn to(n: usize) -> Forge {
    Forge { segment_log2: 12, ..Forge::to(&vec![kit::public(&KEY); n]) }
}

fn inspect(input: &[u8]) -> Vec<Result<Inspected<'_>, ParseError>> {
    Inspector::new(input, &Limits::default()).collect()
}

/// Holds the parts of a message against names, lengths and meanings; none may be missing, and none leave a gap.
fn check(message: &Inspected<'_>, expected: &[(&str, usize, &str)]) {
    let mut at = message.offset;
    for (part, (name, len, meaning)) in message.parts.iter().zip(expected) {
        assert_eq!((&part.name[..], part.bytes.len(), &part.meaning[..], part.offset), (*name, *len, *meaning, at));
        at += *len as u64;
    }
    assert_eq!((message.parts.len(), at), (expected.len(), message.offset + message.len));
}

#[test]
fn every_field_says_what_it_holds() {
    let mut forge = to(2);
    forge.options = 2 | 4 | 16;
    forge.externals = vec![[&[3][..], b"kms", &[0, 4], b"id\x1b.", &[0, 4], b"blob"].concat()];
    forge.proof = vec![7; 128];
    let envelope = forge.envelope(258, 8 | 16, b"c\n", &[1; 4100]);
    let follow_up = forge.follow_up(1, 1 | 2 | 4 | 8, b"", b"x", b"");
    let both = [&envelope[..], &follow_up].concat();
    let [Ok(first), Ok(second)] = &inspect(&both)[..] else { panic!() };
    let block = (69 + 32 + 2 * 52 + 1 + 3 + 2 + 4 + 2 + 4 + 128).to_string() + " bytes";
    check(
        first,
        &[
            ("magic", 3, ""),
            ("version", 1, "1"),
            ("block_len", 4, &block),
            ("suite", 1, "1: X25519, HKDF-SHA256, ChaCha20-Poly1305"),
            ("options", 1, "hints static, sender proof, proof covers the message"),
            ("slot_count", 2, "2"),
            ("external_count", 1, "1"),
            ("created_at", 8, "1700000000 s since 1970-01-01"),
            ("salt", 16, ""),
            ("enc", 32, "shared by all slots"),
            ("slots[0].hint", 4, ""),
            ("slots[0].wrapped_dek", 48, ""),
            ("slots[1].hint", 4, ""),
            ("slots[1].wrapped_dek", 48, ""),
            ("externals[0].provider_len", 1, ""),
            ("externals[0].provider", 3, "kms"),
            ("externals[0].key_ref_len", 2, ""),
            ("externals[0].key_ref", 4, "id\\u{1b}."),
            ("externals[0].blob_len", 2, ""),
            ("externals[0].blob", 4, ""),
            ("sender_proof", 128, "masked"),
            ("header_mac", 32, ""),
            ("seq", 8, "258"),
            ("segment_log2", 1, "segments of 4096 bytes"),
            ("flags", 1, "channel, acceptor"),
            ("context_len", 2, "2"),
            ("context", 2, "\"c\\n\""),
            ("segments[0].prefix", 4, "more follow"),
            ("segments[0].ciphertext", 4096, ""),
            ("segments[0].tag", 16, ""),
            ("segments[1].prefix", 4, "final"),
            ("segments[1].ciphertext", 4, ""),
            ("segments[1].tag", 16, ""),
        ],
    );
    assert_eq!((first.kind, second.kind, second.offset), (Opening::Envelope, Opening::FollowUp, envelope.len() as u64));
    check(
        second,
        &[
            ("type", 1, "follow-up"),
            ("flags", 1, "last, padded, batch, channel"),
            ("context_len", 2, "0"),
            ("segments[0].prefix", 4, "final"),
            ("segments[0].ciphertext", 1, ""),
            ("segments[0].tag", 16, ""),
        ],
    );
}

#[test]
fn layouts_are_told_apart() {
    for (suite, options, enc, words, name) in [
        (1, 9, 32, "hints rotating, enc per slot", "1: X25519, HKDF-SHA256, ChaCha20-Poly1305"),
        (2, 8, 32, "hints none, enc per slot", "2: X25519, HKDF-SHA256, AES-256-GCM"),
        (3, 0, 1120, "hints none", "3: X-Wing, HKDF-SHA256, ChaCha20-Poly1305"),
        (4, 1, 1120, "hints rotating", "4: X-Wing, HKDF-SHA256, AES-256-GCM"),
    ] {
        let slots = vec![vec![0; 4 + enc + 48]];
        let envelope = Forge { suite, options, slots, enc: None, ..to(0) }.envelope(0, 0, b"", b"");
        let [Ok(message)] = &inspect(&envelope)[..] else { panic!("suite {suite}") };
        let part = |name: &str| message.parts.iter().find(|part| part.name == name).unwrap();
        assert_eq!((&part("options").meaning[..], &part("suite").meaning[..]), (words, name));
        assert_eq!((part("slots[0].enc").bytes.len(), &part("flags").meaning[..]), (enc, "none"));
        let said = if enc == 32 { "" } else { "X-Wing: ML-KEM-768, X25519" };
        assert_eq!((&part("slots[0].enc").meaning[..], &part("slots[0].hint").meaning[..]), (said, ""));
        assert!(message.parts.iter().all(|part| part.name != "enc"));
    }
}

/// A message that is not all there, or is none, is told as reading it tells it.
#[test]
fn errors_are_those_of_reading() {
    let envelope = to(1).envelope(0, 0, b"ctx", &[1; 5000]);
    let read = |input: &[u8]| Message::parse(input, &Limits::default()).map(|_| ()).unwrap_err();
    for n in 0..envelope.len() {
        assert_eq!(inspect(&envelope[..n]), [Err(read(&envelope[..n]))], "{n}");
    }
    for wrong in [&b"junk"[..], b"S", b"SWE\x02", &[2, 8, 0, 0]] {
        assert_eq!(inspect(wrong), [Err(read(wrong))], "{wrong:?}");
    }
    for at in [8, 9, 161, 162] {
        let mut changed = envelope.clone();
        changed[at] = 0xff;
        assert_eq!(inspect(&changed), [Err(read(&changed))], "{at}");
    }
}

/// Behind the first message offsets still count from the start of the input, and nothing comes after an error.
#[test]
fn errors_behind_a_message_say_where() {
    let forge = to(1);
    let first = forge.envelope(0, 8, b"", b"x");
    let behind = |second: &[u8]| match inspect(&[&first[..], second, b"x"].concat()[..first.len() + second.len()]).pop() {
        Some(Err(ParseError::Truncated { field, offset, .. })) => (field, offset - first.len() as u64),
        Some(Err(ParseError::Malformed { field, offset, .. } | ParseError::Unsupported { field, offset, .. })) => {
            (field, offset - first.len() as u64)
        }
        other => panic!("{other:?}"),
    };
    let follow_up = forge.follow_up(1, 8, b"ctx", b"text", b"");
    for (n, field, offset) in [
        (1, "flags", 1),
        (3, "context_len", 2),
        (6, "context", 4),
        (10, "segment prefix", 7),
        (11, "segment", 11),
        (30, "segment", 11),
    ] {
        assert_eq!(behind(&follow_up[..n]), (field, offset), "{n}");
    }
    assert_eq!(behind(b"junk"), ("type", 0));
    assert_eq!(behind(&first[..180]), ("segment", 169));
    assert_eq!(inspect(&[&first[..], b"junk"].concat()).len(), 2);
    let [Err(ParseError::Malformed { field: "type", offset: 0, .. })] = &inspect(&follow_up)[..] else { panic!() };
}
