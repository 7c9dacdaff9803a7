//! The seeds of the fuzzers, replayed without one: every input that a target starts from, or once failed on; and the corpus that
//! nights of fuzzing came to, minimised.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

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
    let inputs = minimised(name);
    assert!(inputs.len() >= 20, "{name}: {}", inputs.len());
    inputs.iter().for_each(|input| target(input));
}

/// The files of `fuzz/minimised/NAME.tar.gz`, as `fuzz/nightly` packs them: headers of 512 bytes with the size in octal digits at
/// byte 124, and contents filled up to 512.
fn minimised(name: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/minimised").join(name).with_extension("tar.gz");
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut tar).unwrap();
    let (mut rest, mut files) = (&tar[..], Vec::new());
    while let Some((header, after)) = rest.split_first_chunk::<512>().filter(|(header, _)| header[0] != 0) {
        let size = usize::from_str_radix(std::str::from_utf8(&header[124..135]).unwrap(), 8).unwrap();
        files.push(after[..size].to_vec());
        rest = &after[size.next_multiple_of(512)..];
    }
    files
}

#[test]
fn seeds() {
    for (name, target) in [
        ("block", targets::block as fn(&[u8])),
        ("envelope", targets::envelope),
        ("codec", targets::codec),
        ("connection", fuzz::connection::connection),
        ("open", targets::open),
        ("operations", targets::operations),
        ("stream", targets::stream),
        ("armor", targets::armor),
        ("rewrap", targets::rewrap),
        ("keyfile", targets::keyfile),
        ("pem", targets::pem),
        ("inspect", targets::inspect),
        ("reference", targets::reference),
        #[cfg(feature = "kms")]
        ("kms", fuzz::kms::kms),
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

/// The faults that show that the fuzzers find some (`fuzz/prove`) are of the code as it is.
#[test]
fn the_faults_still_apply() {
    let patches: Vec<_> = fs::read_dir("fuzz/patches").unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(patches.len() >= 10);
    for patch in patches {
        let applies = std::process::Command::new("git").args(["apply", "--check"]).arg(&patch).status().unwrap();
        assert!(applies.success(), "{}", patch.display());
    }
}
