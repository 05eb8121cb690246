//! What a module's text holds: modules, imports, paths and definitions.

use std::collections::BTreeSet;
use std::fmt;

use crate::tokens::Tokens;

/// What a module holds, at any depth of its text except in modules inside it.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) modules: Vec<Declaration>,
    pub(crate) imports: Vec<Import>,
    /// The paths of two segments and more outside imports.
    pub(crate) paths: Vec<Path>,
    /// The names of its items, and of the functions in those.
    pub(crate) defined: BTreeSet<String>,
    /// The first words of paths outside imports. A module that uses a name has it among them.
    pub(crate) words: BTreeSet<String>,
}

/// `mod name;` or `mod name { .. }`.
#[derive(Debug)]
pub(crate) struct Declaration {
    pub(crate) name: String,
    /// What an inline module holds; any other has a file.
    pub(crate) inline: Option<Body>,
}

/// One name that a `use` item brings in.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) path: Path,
    /// The name by which the module knows it; none for a glob and for `as _`.
    pub(crate) name: Option<String>,
    /// Whether the `use` item is public to any extent.
    pub(crate) is_reexport: bool,
}

/// A path as it is written, with groups in braces resolved: `a::{b, c}` is two.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) segments: Vec<String>,
    pub(crate) is_glob: bool,
    pub(crate) line: usize,
    alias: Option<String>,
}

impl Body {
    pub(crate) fn of(tokens: &Tokens) -> Self {
        let mut body = Self::default();
        body.read(tokens);
        body
    }

    fn read(&mut self, tokens: &Tokens) {
        let mut at = 0;
        while at < tokens.len() {
            at = self.read_at(tokens, at);
        }
    }

    /// Reads what begins at `at` and returns the position after it.
    fn read_at(&mut self, tokens: &Tokens, at: usize) -> usize {
        if let Some(inside) = tokens.inside(at) {
            self.read(&inside);
            return at + 1;
        }
        match tokens.word(at).as_deref() {
            None => at + 1,
            Some(_) if continues_something(tokens, at) => at + 1,
            Some("mod") if tokens.word(at + 1).is_some() => self.read_module(tokens, at + 1),
            // `use<'a>` among bounds is no import.
            Some("use") if !tokens.is_mark(at + 1, '<') => self.read_import(tokens, at),
            Some("pub") if has_path_of_visibility(tokens, at) => at + 2,
            Some(keyword) if DEFINING.contains(&keyword) => {
                self.defined.extend(tokens.word(at + 1));
                at + 1
            }
            Some(_) => self.read_path(tokens, at),
        }
    }

    fn read_module(&mut self, tokens: &Tokens, at: usize) -> usize {
        let inside = tokens.inside_braces(at + 1);
        self.modules.extend(tokens.word(at).map(|name| Declaration {
            name,
            inline: inside.as_ref().map(Self::of),
        }));
        at + 2
    }

    /// Reads a `use` item. One that begins with `::` is of another crate.
    fn read_import(&mut self, tokens: &Tokens, at: usize) -> usize {
        let is_reexport = is_after_visibility(tokens, at);
        let mut paths = Vec::new();
        if !tokens.is_path_separator(at + 1) {
            read_tree(tokens, at + 1, &[], &mut paths);
        }
        self.imports.extend(paths.into_iter().map(|path| Import {
            name: path.bound_name(),
            path,
            is_reexport,
        }));
        let is_end = |at: &usize| tokens.is_mark(*at, ';');
        (at..tokens.len()).find(is_end).unwrap_or(tokens.len())
    }

    fn read_path(&mut self, tokens: &Tokens, at: usize) -> usize {
        let mut paths = Vec::new();
        let end = read_tree(tokens, at, &[], &mut paths);
        self.words.extend(tokens.word(at));
        let paths = paths.into_iter().filter(|path| path.segments.len() > 1);
        self.paths.extend(paths);
        end
    }
}

impl Import {
    pub(crate) fn binds(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }
}

impl Path {
    fn bound_name(&self) -> Option<String> {
        let name = self.alias.as_ref().or(self.segments.last());
        let is_named = !self.is_glob && self.alias.as_deref() != Some("_");
        name.filter(|_| is_named).cloned()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let glob = if self.is_glob { "::*" } else { "" };
        write!(f, "{}{glob}", self.segments.join("::"))
    }
}

/// Reads the tree of paths at `at`, each of which begins with `prefix`, and returns the position
/// after it. A path in an expression is such a tree too, one without branches.
fn read_tree(tokens: &Tokens, mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let line = tokens.line(at.min(tokens.len() - 1));
    let mut segments = prefix.to_vec();
    let mut is_glob = false;
    loop {
        if let Some(branches) = tokens.inside_braces(at) {
            for start in branches.starts_between_commas() {
                read_tree(&branches, start, &segments, found);
            }
            return at + 1;
        }
        match tokens.word(at) {
            // The `self` of a group in braces is the module before them.
            Some(word) if word == "self" && !segments.is_empty() => {}
            Some(word) => segments.push(word),
            None if tokens.is_mark(at, '*') => is_glob = true,
            None => break,
        }
        at += 1;
        if !tokens.is_path_separator(at) {
            break;
        }
        at += 2;
    }
    let has_alias = tokens.is_word(at, "as");
    let alias = tokens.word(at + 1).filter(|_| has_alias);
    found.push(Path {
        segments,
        is_glob,
        line,
        alias,
    });
    at
}

/// Whether the word at `at` is no path's first: it follows `::`, or is a field, a method or a
/// lifetime.
fn continues_something(tokens: &Tokens, at: usize) -> bool {
    let follows_separator = at >= 2 && tokens.is_path_separator(at - 2);
    let is_in_range = tokens.is_mark_before(at, 2, '.');
    let is_member = tokens.is_mark_before(at, 1, '.') && !is_in_range;
    follows_separator || is_member || tokens.is_mark_before(at, 1, '\'')
}

/// Whether `pub` or `pub(..)` stands before `at`.
fn is_after_visibility(tokens: &Tokens, at: usize) -> bool {
    let is_pub = |at: usize| tokens.is_word(at, "pub");
    at >= 1 && is_pub(at - 1) || at >= 2 && is_pub(at - 2) && tokens.inside(at - 1).is_some()
}

/// Whether `pub(in path)` stands at `at`, which names a module around this one and is no use of it.
fn has_path_of_visibility(tokens: &Tokens, at: usize) -> bool {
    tokens
        .inside(at + 1)
        .is_some_and(|inside| inside.is_word(0, "in"))
}

/// Words after which the name of an item comes.
const DEFINING: [&str; 8] = [
    "const", "enum", "fn", "static", "struct", "trait", "type", "union",
];
