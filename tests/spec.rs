//! The spec and the code name each other: every requirement stands in spec/, beside its check in src/, and in a test.
//!
//! Ids stay when words change, so the words are frozen too: `SEALWIRE_WRITE_REQUIREMENTS=1 cargo test --test spec` writes
//! `tests/requirements.txt`, after what was reworded has been compared with its check and its test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use sealwire::wire::layout::{self, Field};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

/// Ids like `BLK-3` in a text.
fn ids(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-');
    let is_id = |s: &&str| {
        s.split_once('-').is_some_and(|(name, n)| {
            (2..=4).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_uppercase())
                && !n.is_empty()
                && n.bytes().all(|b| b.is_ascii_digit())
        })
    };
    text.split(word).filter(is_id).map(str::to_owned).collect()
}

/// Requirements of the spec: list items that begin with an id in brackets.
fn requirements() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (path, text) in files("spec", "md") {
        for item in items(&text) {
            let Some((id, rest)) = item.strip_prefix("- [").and_then(|rest| rest.split_once("] ")) else {
                let normative = ["MUST", "SHALL", "REQUIRED"].iter().any(|word| item.contains(word));
                assert!(!normative || item.contains("BCP 14"), "{}: a requirement without an id: {item}", path.display());
                continue;
            };
            assert!(all.insert(id.to_owned(), rest.to_owned()).is_none(), "{id} is there twice");
        }
    }
    all
}

/// Paragraphs, list items and table rows of a page.
fn items(text: &str) -> Vec<String> {
    let mut items: Vec<String> = vec![String::new()];
    for line in text.lines() {
        if line.trim().is_empty() || line.starts_with("- ") || line.starts_with('|') || line.starts_with('#') {
            items.push(String::new());
        }
        if let Some(item) = items.last_mut() {
            item.push_str(line);
            item.push(' ');
        }
    }
    items
}

/// What is said in brackets in src/, outside of tests.
fn in_code() -> BTreeSet<String> {
    let all = files("src", "rs");
    let code = all.iter().map(|(_, text)| text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default());
    let bracketed = code.flat_map(|text| text.split('[').skip(1).filter_map(|rest| rest.split_once(']').map(|(id, _)| id)));
    bracketed.flat_map(|id| ids(id).into_iter().filter(|found| found == id).collect::<Vec<_>>()).collect()
}

/// What a comment above a test says that it proves.
fn proved() -> BTreeSet<String> {
    let all = files("src", "rs").into_iter().chain(files("tests", "rs"));
    let mut proved = BTreeSet::new();
    for (_, text) in all.filter(|(path, _)| !path.ends_with("tests/spec.rs")) {
        for part in text.split("Proves ").skip(1) {
            let sentence = part.split(['.', ':', '\n']).next().unwrap_or_default();
            proved.extend(ids(sentence));
        }
    }
    proved
}

#[test]
fn every_requirement_is_kept_and_proved() {
    let spec: BTreeSet<String> = requirements().into_keys().collect();
    assert!(spec.len() > 70);
    let (code, tests) = (in_code(), proved());
    assert_eq!(spec.difference(&code).collect::<Vec<_>>(), [""; 0], "in the spec, and not in src/");
    assert_eq!(code.difference(&spec).collect::<Vec<_>>(), [""; 0], "in src/, and not in the spec");
    assert_eq!(spec.difference(&tests).collect::<Vec<_>>(), [""; 0], "in the spec, and proved by no test");
    assert_eq!(tests.difference(&spec).collect::<Vec<_>>(), [""; 0], "named by a test, and not in the spec");
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What makes a line of a paragraph, or of a fenced block, a formula and not prose or an example in hex.
fn is_formula(text: &str) -> bool {
    text.contains(['‖', '⌈', '×'])
}

/// The formulas of a page, named by the section in which they stand and their place in it: fenced blocks, paragraphs and table
/// rows with a formula in them.
fn formulas(page: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("spec").join(page)).unwrap();
    let (mut found, mut section, mut count) = (BTreeMap::new(), String::new(), 0);
    let mut keep = |section: &str, count: &mut u32, text: String| {
        *count += 1;
        found.insert(one_line(&format!("{page} {section} formula {count}")), text);
    };
    for (i, part) in text.split("\n```").enumerate() {
        if i % 2 == 1 {
            if is_formula(part) || part.contains(" = ") {
                let lines: Vec<_> = part.lines().map(one_line).filter(|line| !line.is_empty()).collect();
                keep(&section, &mut count, lines.join("\n"));
            }
            continue;
        }
        for item in items(part) {
            if let Some(heading) = item.strip_prefix("##") {
                let heading = heading.trim_start_matches('#').trim();
                section = heading.split([' ']).next().unwrap_or_default().trim_end_matches('.').to_owned();
                count = 0;
            } else if !item.starts_with("- [") && is_formula(&item) {
                keep(&section, &mut count, one_line(&item));
            }
        }
    }
    found
}

/// Everything whose words are frozen: each requirement, and each formula.
fn wording() -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = requirements().into_iter().map(|(id, text)| (id, one_line(&text))).collect();
    all.extend(formulas("format.md"));
    all.extend(formulas("transfer.md"));
    all.extend(formulas("kms.md"));
    all
}

/// The files in which an id stands: in brackets beside its check, or after what a test proves.
fn places(id: &str) -> String {
    let all = files("src", "rs").into_iter().chain(files("tests", "rs"));
    let named = all.filter(|(path, text)| !path.ends_with("tests/spec.rs") && ids(text).contains(id));
    let mut names: Vec<_> = named.map(|(path, _)| path.strip_prefix(root()).unwrap().display().to_string()).collect();
    names.sort();
    names.join(", ")
}

/// A requirement that is reworded keeps its id, and its check and its test may then be those of the old words.
#[test]
fn no_requirement_is_reworded_unseen() {
    let path = root().join("tests/requirements.txt");
    let now = wording();
    assert!(now.keys().filter(|name| name.contains("formula")).count() > 8);
    if std::env::var_os("SEALWIRE_WRITE_REQUIREMENTS").is_some() {
        let entries: Vec<_> = now.iter().map(|(name, text)| format!("{name}\n{text}\n")).collect();
        fs::write(&path, entries.join("\n")).unwrap();
        return;
    }
    let file = fs::read_to_string(&path).unwrap();
    let frozen: BTreeMap<&str, &str> = file.split("\n\n").map(|entry| entry.trim_end().split_once('\n').unwrap()).collect();
    let names: BTreeSet<&str> = frozen.keys().copied().chain(now.keys().map(String::as_str)).collect();
    let changed = names.into_iter().filter(|name| frozen.get(name).copied() != now.get(*name).map(String::as_str));
    let report: Vec<String> = changed
        .map(|name| {
            let was = frozen.get(name).copied().unwrap_or("(not there)");
            let is = now.get(name).map_or("(not there)", String::as_str);
            let places = if name.contains("formula") { "whatever computes it, and spec/vectors".into() } else { places(name) };
            format!("{name} was reworded.\n  was: {was}\n  is:  {is}\n  look again at: {places}")
        })
        .collect();
    assert!(
        report.is_empty(),
        "{}\nCompare the check in src/ and the test with the new words; then SEALWIRE_WRITE_REQUIREMENTS=1 writes {} anew.",
        report.join("\n"),
        path.strip_prefix(root()).unwrap().display(),
    );
}

#[test]
fn every_requirement_is_normative() {
    for (id, text) in requirements() {
        // CHN-8, KEY-2 and the like say in their own words what follows; each has one of these.
        assert!(text.contains("MUST"), "{id}: {text}");
    }
}

/// The rows of the first table after a heading.
fn table(page: &str, heading: &str) -> Vec<(String, Option<usize>)> {
    let text = fs::read_to_string(root().join("spec").join(page)).unwrap();
    let (_, after) = text.split_once(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let rows = after.lines().skip_while(|line| !line.starts_with("| field")).skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        (cells[1].to_owned(), cells[2].parse().ok())
    })
    .collect()
}

#[test]
fn tables_are_the_codes() {
    for (heading, fields) in [
        ("3.1 Fields", layout::DEK_BLOCK),
        ("3.3 Slots", layout::SLOT),
        ("3.4 Externals", layout::EXTERNAL),
        ("4.1 Message head", layout::MESSAGE_HEAD),
        ("4.2 Follow-up head", layout::FOLLOW_UP_HEAD),
        ("5.1 Fields", layout::SEGMENT),
    ] {
        let of_code: Vec<_> = fields.iter().map(|Field { name, len }| ((*name).to_owned(), *len)).collect();
        assert_eq!(table("format.md", heading), of_code, "{heading}");
    }
}

/// Limits of the spec's table, as the code has them.
#[test]
fn limits_are_the_codes() {
    let text = fs::read_to_string(root().join("spec/format.md")).unwrap();
    let (_, after) = text.split_once("### 11.1 Limits").unwrap();
    let numbers: Vec<u64> = after
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.split('|').nth(2).unwrap().trim().replace(',', "").parse().unwrap())
        .collect();
    let sealwire::wire::Limits { block, recipients, externals, context, message, segment, trials, batch_entries } =
        sealwire::wire::Limits::default();
    assert_eq!(numbers, [block, recipients, externals, context, message, segment, trials, batch_entries]);
}

/// Sections that the code names are there.
#[test]
fn sections_exist() {
    let text = fs::read_to_string(root().join("spec/format.md")).unwrap();
    let headings: BTreeSet<&str> = text
        .lines()
        .filter_map(|l| l.strip_prefix("##"))
        .map(|l| l.trim_start_matches('#').trim())
        .filter_map(|l| l.split([' ']).next())
        .map(|n| n.trim_end_matches('.'))
        .collect();
    for (path, code) in files("src", "rs") {
        for rest in code.split("spec ").skip(1) {
            let number: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let number = number.trim_end_matches('.');
            assert!(number.is_empty() || headings.contains(number), "{}: spec {number}", path.display());
        }
    }
}
