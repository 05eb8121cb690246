//! What a path in a module leads to.

use std::collections::BTreeSet;

use crate::body::Import;
use crate::modules::{Crate, ROOT};

/// What a path leads to. A path into another crate leads to nothing here.
#[derive(Debug, Default)]
pub(crate) struct Destination {
    /// The modules that hold what the path names: more than one if it has several meanings, as when
    /// configurations differ or a function has the name of a module.
    pub(crate) ends: BTreeSet<End>,
    /// Every module on the way.
    pub(crate) passed: BTreeSet<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct End {
    pub(crate) module: usize,
    /// Whether the path names the module itself, not an item in it.
    pub(crate) is_module: bool,
}

impl Destination {
    /// Follows a path that stands in the module `from`, through imports and re-exports, to the
    /// modules that define what it names.
    pub(crate) fn of(library: &Crate, from: usize, path: &[String]) -> Self {
        let mut walk = Walk {
            library,
            followed: BTreeSet::new(),
            destination: Self::default(),
        };
        walk.begin(from, path);
        walk.destination
    }

    pub(crate) fn is_a_module(&self) -> bool {
        self.ends.iter().any(|end| end.is_module)
    }
}

struct Walk<'a> {
    library: &'a Crate,
    /// The imports that are being followed, by module and position. None is followed inside itself:
    /// `use a::a;` beside the module `a` would have no end.
    followed: BTreeSet<(usize, usize)>,
    destination: Destination,
}

/// Each step returns whether it has led to an end in this crate.
impl<'a> Walk<'a> {
    fn begin(&mut self, from: usize, path: &[String]) -> bool {
        match path.split_first() {
            Some((first, rest)) if first == "crate" => self.step(ROOT, rest),
            Some((first, _)) if self.is_in_scope(from, first) => self.step(from, path),
            _ => false,
        }
    }

    /// Whether a path that stands in a module may begin with this word. If not, it is of another
    /// crate, or names an item of the module itself.
    fn is_in_scope(&self, module: usize, word: &str) -> bool {
        word == "self"
            || word == "super"
            || self.library.children(module, word).next().is_some()
            || self.imports(module).any(|(_, import)| import.binds(word))
    }

    /// Goes on from the module `at`.
    fn step(&mut self, at: usize, path: &[String]) -> bool {
        self.destination.passed.insert(at);
        match path.split_first() {
            None => self.end(at, true),
            Some((first, rest)) if first == "self" => self.step(at, rest),
            Some((first, rest)) if first == "super" => self.step(self.library.parent(at), rest),
            Some((first, rest)) if self.is_in_scope(at, first) => self.step_into(at, first, rest),
            Some((first, _)) if self.defines(at, first) => self.end(at, false),
            Some(_) => self.step_through_globs(at, path),
        }
    }

    /// Goes on through a name that is declared or imported. One from another crate belongs to the
    /// module that imports it.
    fn step_into(&mut self, at: usize, name: &str, rest: &[String]) -> bool {
        let mut has_end = false;
        for child in self.library.children(at, name) {
            has_end |= self.step(child, rest);
        }
        for (position, import) in self.imports(at) {
            if import.binds(name) && self.followed.insert((at, position)) {
                has_end |= self.begin(at, &[&import.path.segments, rest].concat());
                self.followed.remove(&(at, position));
            }
        }
        has_end || self.end(at, false)
    }

    /// Looks for a name in the modules whose names are imported by globs. One that none has is made
    /// by a macro, or is from another crate, and belongs to the module that was asked for it.
    fn step_through_globs(&mut self, at: usize, path: &[String]) -> bool {
        let mut has_end = false;
        for (position, import) in self.imports(at) {
            if import.path.is_glob && self.followed.insert((at, position)) {
                for module in self.modules_named(at, import) {
                    if self.is_in_scope(module, &path[0]) || self.defines(module, &path[0]) {
                        has_end |= self.step(module, path);
                    }
                }
                self.followed.remove(&(at, position));
            }
        }
        has_end || self.end(at, false)
    }

    fn modules_named(&self, at: usize, import: &Import) -> Vec<usize> {
        let destination = Destination::of(self.library, at, &import.path.segments);
        let modules = destination.ends.into_iter().filter(|end| end.is_module);
        modules.map(|end| end.module).collect()
    }

    fn defines(&self, module: usize, name: &str) -> bool {
        self.library.module(module).body.defined.contains(name)
    }

    fn imports(&self, module: usize) -> impl Iterator<Item = (usize, &'a Import)> + use<'a> {
        self.library.module(module).body.imports.iter().enumerate()
    }

    fn end(&mut self, module: usize, is_module: bool) -> bool {
        self.destination.ends.insert(End { module, is_module });
        true
    }
}
