//! The seeds of the fuzzers, replayed without one: every input that a target starts from, or once failed on.

use std::{fs, path::Path};

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "the whole of it is the fuzzers'")]
mod fuzz;

use fuzz::targets;

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(seeds.len() >= 3, "{name}");
    for seed in seeds {
        target(&fs::read(seed).unwrap());
    }
}

#[test]
fn seeds() {
    for (name, target) in [
        ("block", targets::block as fn(&[u8])),
        ("envelope", targets::envelope),
        ("codec", targets::codec),
        ("open", targets::open),
        ("operations", targets::operations),
        ("keyfile", targets::keyfile),
        ("pem", targets::pem),
        ("inspect", targets::inspect),
        ("reference", targets::reference),
    ] {
        replay(name, target);
    }
}

/// The slow reader agrees with us on every vector as it is, so that what fuzzing finds are edits.
#[test]
fn the_slow_reader_reads_the_vectors() {
    let count = fuzz::vectors().iter().filter(|vector| vector.is_envelope).count();
    assert!(count > 200);
    for index in 0..count as u16 {
        targets::reference(&index.to_be_bytes());
    }
}

/// The inspector shows every vector to its last byte or to its first fault, whole suites that nobody here knows included.
#[test]
fn the_inspector_reads_the_vectors() {
    for vector in fuzz::vectors() {
        targets::inspect(&[&[0, 0], &vector.bytes[..]].concat());
    }
}
