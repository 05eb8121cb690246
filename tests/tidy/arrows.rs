//! Which file names what another defines: the arrows between files, and those that go up a floor.

use std::collections::BTreeSet;
use std::fmt;

use crate::body::{Import, Path};
use crate::destination::{Destination, End};
use crate::modules::Crate;

/// A file names an item that another file defines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrow {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) line: usize,
    pub(crate) path: String,
}

/// A path that leads from a module to a floor above its own, or through one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Climb {
    file: String,
    line: usize,
    path: String,
    /// The names of the two floors.
    from: String,
    to: String,
}

/// The arrows between all files but `src/lib.rs`, which only puts them together.
///
/// An arrow goes to the file that defines an item, also if the path names a re-export; one for a
/// glob goes to the file of its module. To declare modules, or to re-export what is defined in
/// them, is no use of them: a `mod.rs` that does only this has no arrows. If it has a re-exported
/// name elsewhere in its text, it uses that one.
pub(crate) fn arrows(library: &Crate) -> BTreeSet<Arrow> {
    let named = library
        .modules()
        .flat_map(|(from, _)| named_in(library, from));
    let arrows = named.flat_map(|named| named.arrows(library));
    arrows.filter(|arrow| arrow.from != arrow.to).collect()
}

/// The paths that go up a floor. A re-export is one too.
pub(crate) fn climbs(library: &Crate) -> BTreeSet<Climb> {
    let named = library
        .modules()
        .flat_map(|(from, _)| named_in(library, from));
    named.filter_map(|named| named.climb(library)).collect()
}

impl fmt::Display for Climb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file, line, path, ..
        } = self;
        write!(
            f,
            "{file}:{line}: {path} goes up from `{}` to `{}`",
            self.from, self.to
        )
    }
}

/// A path in a module that may lead to another.
struct Named<'a> {
    from: usize,
    path: &'a Path,
    destination: Destination,
    is_only_reexported: bool,
}

impl Named<'_> {
    fn arrows(&self, library: &Crate) -> Vec<Arrow> {
        let ends = self
            .destination
            .ends
            .iter()
            .filter(|end| self.uses(library, **end));
        let arrow = |end: &End| Arrow {
            from: library.module(self.from).file.clone(),
            to: library.module(end.module).file.clone(),
            line: self.path.line,
            path: self.path.to_string(),
        };
        ends.map(arrow).collect()
    }

    /// Whether the module, by this path, uses what `end` defines.
    fn uses(&self, library: &Crate, end: End) -> bool {
        let outer = &library.module(self.from).path;
        let is_inside = library.module(end.module).path.starts_with(outer);
        let is_outside_root =
            !library.is_in_root_file(self.from) && !library.is_in_root_file(end.module);
        is_outside_root && !(self.is_only_reexported && is_inside)
    }

    fn climb(&self, library: &Crate) -> Option<Climb> {
        let floors = library.floors();
        let mine = library.floor(self.from)?;
        let passed = self.destination.passed.iter();
        let highest = passed.filter_map(|passed| library.floor(*passed)).max()?;
        (highest > mine).then(|| Climb {
            file: library.module(self.from).file.clone(),
            line: self.path.line,
            path: self.path.to_string(),
            from: floors[mine].to_owned(),
            to: floors[highest].to_owned(),
        })
    }
}

/// The paths in a module, with what they lead to.
fn named_in(library: &Crate, from: usize) -> Vec<Named<'_>> {
    let body = &library.module(from).body;
    let named = |path, is_only_reexported| Named {
        from,
        path,
        destination: Destination::of(library, from, &path.segments),
        is_only_reexported,
    };
    let is_used = |import: &Import| import.name.iter().any(|name| body.words.contains(name));
    let imports = body.imports.iter();
    let imports = imports.map(|import| named(&import.path, import.is_reexport && !is_used(import)));
    // `Type::function` leads where the import of `Type` does, and `module::function` may lead on.
    let begins_with_module =
        |path: &Path| Destination::of(library, from, &path.segments[..1]).is_a_module();
    let paths = body.paths.iter().filter(|path| begins_with_module(path));
    let paths = paths.map(|path| named(path, false));
    imports.chain(paths).collect()
}
