//! The tree of a crate's modules.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::body::{Body, Declaration};
use crate::tokens::Tokens;

/// The crate's root, `src/lib.rs`, is the first of its modules.
pub(crate) const ROOT: usize = 0;

/// Texts by their paths in a package, such as `src/lib.rs`.
pub(crate) type Sources = BTreeMap<String, String>;

/// Every Rust source in the folder `src` of a package.
pub(crate) fn sources(package: &Path) -> Sources {
    let mut found = Sources::new();
    let mut folders = vec![package.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of sources can be read") {
            let path = entry.expect("a folder of sources can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source can be read");
                let name = path
                    .strip_prefix(package)
                    .expect("a source is in its package");
                found.insert(name.to_string_lossy().into_owned(), text);
            }
        }
    }
    found
}

/// A library: the modules declared in `src/lib.rs` and below it, without those for tests only.
#[derive(Debug)]
pub(crate) struct Crate {
    modules: Vec<Module>,
}

#[derive(Debug)]
pub(crate) struct Module {
    /// The names that lead to the module from the root, whose own path is empty.
    pub(crate) path: Vec<String>,
    /// The file the module is in; an inline module is in that of the module around it.
    pub(crate) file: String,
    pub(crate) body: Body,
    parent: usize,
    children: Vec<(String, usize)>,
}

impl Crate {
    pub(crate) fn of(sources: &Sources) -> Self {
        let file = "src/lib.rs".to_owned();
        let body = read(sources, &file).expect("a library has src/lib.rs");
        let root = Module {
            path: Vec::new(),
            file,
            body,
            parent: ROOT,
            children: Vec::new(),
        };
        let mut library = Self {
            modules: vec![root],
        };
        library.add_children(ROOT, sources);
        library
    }

    fn add_children(&mut self, parent: usize, sources: &Sources) {
        for declared in std::mem::take(&mut self.modules[parent].body.modules) {
            let name = declared.name.clone();
            let child = self.modules.len();
            self.modules.push(self.child(parent, declared, sources));
            self.modules[parent].children.push((name, child));
            self.add_children(child, sources);
        }
    }

    fn child(&self, parent: usize, declared: Declaration, sources: &Sources) -> Module {
        let around = &self.modules[parent];
        let mut path = around.path.clone();
        path.push(declared.name);
        let (file, body) = match declared.inline {
            Some(body) => (around.file.clone(), body),
            None => read_file_of_module(&path, sources),
        };
        Module {
            path,
            file,
            body,
            parent,
            children: Vec::new(),
        }
    }

    pub(crate) fn modules(&self) -> impl Iterator<Item = (usize, &Module)> {
        self.modules.iter().enumerate()
    }

    pub(crate) fn module(&self, module: usize) -> &Module {
        &self.modules[module]
    }

    pub(crate) fn parent(&self, module: usize) -> usize {
        self.modules[module].parent
    }

    /// The modules of this name in a module: more than one if their configurations differ.
    pub(crate) fn children<'a>(
        &'a self,
        module: usize,
        name: &'a str,
    ) -> impl Iterator<Item = usize> + 'a {
        let children = self.modules[module].children.iter();
        children
            .filter(move |(child, _)| child == name)
            .map(|(_, child)| *child)
    }

    /// The top-level modules that have a file, from the bottom: the order in `src/lib.rs`.
    pub(crate) fn floors(&self) -> Vec<&str> {
        let children = self.modules[ROOT].children.iter();
        let floors = children.filter(|(_, child)| !self.is_in_root_file(*child));
        floors.map(|(name, _)| name.as_str()).collect()
    }

    /// The floor a module is on, counted from the bottom. What `src/lib.rs` holds is on none.
    pub(crate) fn floor(&self, module: usize) -> Option<usize> {
        let floor = self.modules[module].path.first()?;
        self.floors().iter().position(|name| name == floor)
    }

    pub(crate) fn is_in_root_file(&self, module: usize) -> bool {
        self.modules[module].file == self.modules[ROOT].file
    }
}

/// The file of a module that is not inline: `src/a/b.rs` or `src/a/b/mod.rs` for `a::b`.
fn read_file_of_module(path: &[String], sources: &Sources) -> (String, Body) {
    let stem = format!("src/{}", path.join("/"));
    let files = [format!("{stem}.rs"), format!("{stem}/mod.rs")];
    let mut found = files.into_iter().filter_map(|file| {
        let body = read(sources, &file)?;
        Some((file, body))
    });
    found
        .next()
        .unwrap_or_else(|| panic!("the module {} has no file", path.join("::")))
}

fn read(sources: &Sources, file: &str) -> Option<Body> {
    let text = sources.get(file)?;
    Some(Body::of(&Tokens::of_source(file, text)))
}
