//! Cycles in the graph of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::arrows::Arrow;

/// Files each of which leads to every other, and the arrows between them: a strongly connected
/// component of the graph.
#[derive(Debug)]
pub(crate) struct Cycle {
    pub(crate) files: BTreeSet<String>,
    arrows: BTreeSet<Arrow>,
}

pub(crate) fn cycles(arrows: &BTreeSet<Arrow>) -> Vec<Cycle> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = arrows
        .iter()
        .map(|arrow| (arrow.from.as_str(), reached_from(&arrow.from, arrows)))
        .collect();
    let leads_to = |from: &str, to: &str| reached.get(from).is_some_and(|files| files.contains(to));
    let components: BTreeSet<BTreeSet<&str>> = reached
        .keys()
        .filter(|file| leads_to(file, file))
        .map(|file| {
            reached[file]
                .iter()
                .copied()
                .filter(|other| leads_to(other, file))
                .collect()
        })
        .collect();
    components
        .iter()
        .map(|files| Cycle::of(files, arrows))
        .collect()
}

/// The files that arrows lead to from one, in any number of steps; itself only if they lead back.
fn reached_from<'a>(start: &'a str, arrows: &'a BTreeSet<Arrow>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut left = vec![start];
    while let Some(file) = left.pop() {
        let steps = arrows.iter().filter(|arrow| arrow.from == file);
        left.extend(
            steps
                .map(|arrow| arrow.to.as_str())
                .filter(|to| reached.insert(*to)),
        );
    }
    reached
}

impl Cycle {
    fn of(files: &BTreeSet<&str>, arrows: &BTreeSet<Arrow>) -> Self {
        let is_part = |file: &str| files.contains(file);
        let parts = arrows
            .iter()
            .filter(|arrow| is_part(&arrow.from) && is_part(&arrow.to));
        Self {
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            arrows: parts.cloned().collect(),
        }
    }

    /// The paths that make the arrow between two files, each with its lines.
    fn paths_by_files(&self) -> BTreeMap<(&str, &str), BTreeMap<&str, Vec<usize>>> {
        let mut paths: BTreeMap<_, BTreeMap<&str, Vec<usize>>> = BTreeMap::new();
        for Arrow {
            from,
            to,
            line,
            path,
        } in &self.arrows
        {
            let between = paths.entry((from.as_str(), to.as_str())).or_default();
            between.entry(path).or_default().push(*line);
        }
        paths
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a cycle of {} files:", self.files.len())?;
        for ((from, to), paths) in self.paths_by_files() {
            writeln!(f, "  {from} -> {to}")?;
            for (path, lines) in paths {
                let lines: Vec<_> = lines.iter().map(usize::to_string).collect();
                writeln!(f, "      {path} (line {})", lines.join(", "))?;
            }
        }
        Ok(())
    }
}
