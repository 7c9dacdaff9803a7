//! The spec and the code name each other: every requirement stands in spec/, beside its check in src/, and in a test.

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
    let sealwire::wire::Limits { block, recipients, externals, context, message, trials, batch_entries } =
        sealwire::wire::Limits::default();
    assert_eq!(numbers, [block, recipients, externals, context, message, trials, batch_entries]);
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
