//! The list in `src/docs/conformance.md` is true: each test it names exists, and its counts are
//! those of its rows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Returns the rows of the tables: section, level, what is asked, what happens, tests.
fn rows(list: &str) -> Vec<Vec<&str>> {
    let rows = list
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").map(str::trim).collect::<Vec<_>>())
        .filter(|row: &Vec<_>| row.len() == 5 && row[0] != "section")
        .collect()
}

fn tests_in(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text
                .split("#[test]")
                .skip(1)
                .filter_map(|test| Some(test.split_once("fn ")?.1.split_once('(')?.0.to_owned()));
            found.extend(names);
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let list = fs::read_to_string("src/docs/conformance.md").unwrap();
    let mut tests = BTreeSet::new();
    tests_in(Path::new("tests"), &mut tests);
    tests_in(Path::new("src"), &mut tests);
    let rows = rows(&list);
    assert!(rows.len() > 80, "the tables were not found");
    for row in rows {
        let named: Vec<_> = row[4].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty() || row[4] == "–", "no test: {row:?}");
        for name in named {
            assert!(tests.contains(name), "there is no test {name}: {row:?}");
        }
    }
}

#[test]
fn the_counts_are_those_of_the_rows() {
    let list = fs::read_to_string("src/docs/conformance.md").unwrap();
    let rows = rows(&list);
    for level in ["MUST", "SHOULD", "MAY"] {
        let of_level: Vec<_> = rows.iter().filter(|row| row[1] == level).collect();
        let tested = of_level.iter().filter(|row| row[4] != "–").count();
        let deviating = of_level
            .iter()
            .filter(|row| row[3].starts_with("**No"))
            .count();
        let line = format!("| {level} | {} | {tested} | {deviating} |", of_level.len());
        assert!(list.contains(&line), "the counts should be: {line}");
    }
}
