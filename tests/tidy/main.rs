//! Checks that the crate keeps to its architecture.
//!
//! The floors are the top-level modules, from the bottom in the order in which `src/lib.rs`
//! declares them. A file names its own floor and those below, and the files of the crate make no
//! cycle. The binary, what only tests, models and fuzz targets have, and `src/lib.rs` itself are on
//! no floor.
//!
//! `cargo test --test tidy -- --nocapture` prints how many paths go up a floor and how many files
//! are in cycles. A path is seen in code of any kind, so in an argument of a macro too; a method
//! called without the name of its type or trait is not. `arrows` says what counts as a use.

mod arrows;
mod body;
mod cycles;
mod destination;
mod made_up;
mod modules;
mod tokens;

use std::path::Path;

use crate::arrows::{arrows, climbs};
use crate::cycles::cycles;
use crate::modules::{Crate, Module, Sources, sources};
use crate::tokens::Tokens;

/// Files that may hold unsafe code.
const UNSAFE_FILES: [&str; 4] = [
    "src/cli/prove/link/tun.rs",
    "src/sys/poller/portable.rs",
    "src/sys/signal_mask.rs",
    "src/sys/socket.rs",
];

/// Words that a module without a socket, a thread or a clock has no use for.
const OUTSIDE_WORDS: [&str; 11] = [
    "Instant",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "libc",
    "now",
    "rustix",
    "sys",
    "thread",
];

#[test]
fn no_module_uses_a_floor_above_its_own() {
    let library = Crate::of(&package());
    let floors = library.floors();
    let floor = |name: &str| floors.iter().position(|floor| *floor == name);
    assert!(
        floor("wire") < floor("conn") && floor("conn") < floor("server"),
        "the floors were not found: {floors:?}"
    );
    let climbs = climbs(&library);
    println!("arrows up: {}", climbs.len());
    assert!(climbs.is_empty(), "\n{}", lines(&climbs));
}

#[test]
fn no_file_uses_one_that_uses_it() {
    let library = Crate::of(&package());
    let cycles = cycles(&arrows(&library));
    let files: usize = cycles.iter().map(|cycle| cycle.files.len()).sum();
    println!("cycles: {}, of {files} files", cycles.len());
    assert!(cycles.is_empty(), "\n{}", lines(&cycles));
}

#[test]
fn wire_sees_no_socket_no_thread_and_no_clock() {
    let sources = package();
    let library = Crate::of(&sources);
    let is_in_wire = |module: &Module| module.path.first().is_some_and(|name| name == "wire");
    let wire = library.modules().filter(|(_, module)| is_in_wire(module));
    for (_, module) in wire {
        let found = places_of(&OUTSIDE_WORDS, &module.file, &sources);
        assert!(found.is_empty(), "\n{}", lines(&found));
    }
}

#[test]
fn unsafe_code_is_where_it_is_said_to_be() {
    let sources = package();
    let is_safe = |file: &&String| !UNSAFE_FILES.contains(&file.as_str());
    for file in sources.keys().filter(is_safe) {
        let found = places_of(&["unsafe"], file, &sources);
        assert!(found.is_empty(), "\n{}", lines(&found));
    }
}

#[test]
fn no_todo_is_left_in_the_sources() {
    // The marks are in two halves, so that a search for them does not find this list.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!"),
        concat!("unimplem", "ented!"),
    ];
    for (file, text) in package() {
        for (line, text) in (1..).zip(text.lines()) {
            assert!(
                !marks.iter().any(|mark| text.contains(mark)),
                "{file}:{line}: {text}"
            );
        }
    }
}

fn package() -> Sources {
    sources(Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// Where these words stand in the code of a file, without the tests in it.
fn places_of(words: &[&str], file: &str, sources: &Sources) -> Vec<String> {
    let found = Tokens::of_source(file, &sources[file]).words().into_iter();
    let found = found.filter(|(_, word)| words.contains(&word.as_str()));
    found
        .map(|(line, word)| format!("{file}:{line}: {word}"))
        .collect()
}

fn lines<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let lines: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    lines.join("\n")
}
