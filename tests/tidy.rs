//! Keeps the architecture true: no module uses one from a floor above its own.

use std::fs;
use std::path::{Path, PathBuf};

/// The order in `lib.rs`, which says the floors from the bottom.
fn floors() -> Vec<String> {
    let lib = fs::read_to_string("src/lib.rs").expect("lib.rs is there");
    let names = lib.lines().filter_map(|line| {
        line.trim_start_matches("pub ")
            .strip_prefix("mod ")?
            .strip_suffix(';')
    });
    names.map(str::to_owned).collect()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a source directory can be read") {
        let path = entry.expect("a source directory can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Source lines with the module they are in: `src/conn/body.rs` is in `conn`. Tests may use what
/// they like.
fn lines() -> Vec<(String, PathBuf, String)> {
    let mut paths = Vec::new();
    sources(Path::new("src"), &mut paths);
    let mut lines = Vec::new();
    for path in paths {
        let name = path
            .strip_prefix("src")
            .expect("it was found there")
            .components()
            .next()
            .expect("it has a name");
        let module = name
            .as_os_str()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_owned();
        let text = fs::read_to_string(&path).expect("a source can be read");
        let is_test_file = path
            .file_stem()
            .is_some_and(|stem| stem == "tests" || stem.to_string_lossy().contains("loom"));
        if is_test_file {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        lines.extend(
            code.lines()
                .map(|line| (module.clone(), path.clone(), line.to_owned())),
        );
    }
    lines
}

#[test]
fn no_module_uses_a_floor_above_its_own() {
    let floors = floors();
    let floor = |name: &str| floors.iter().position(|floor| floor == name);
    assert!(
        floor("wire") < floor("conn") && floor("conn") < floor("server"),
        "the floors were not found: {floors:?}"
    );
    for (module, path, line) in lines() {
        let Some(used) = line
            .trim_start()
            .trim_start_matches("pub(crate) ")
            .strip_prefix("use crate::")
        else {
            continue;
        };
        let used = used.split([':', ';', ' ']).next().unwrap_or_default();
        let (Some(mine), Some(theirs)) = (floor(&module), floor(used)) else {
            continue;
        };
        assert!(
            theirs <= mine,
            "{}: `{module}` uses `{used}`, which is above it: {line}",
            path.display()
        );
    }
}

#[test]
fn wire_sees_no_socket_no_thread_and_no_clock() {
    for (module, path, line) in lines() {
        let forbidden = [
            "TcpStream",
            "UnixStream",
            "std::thread",
            "Instant",
            "rustix",
        ];
        let found = forbidden.iter().find(|word| line.contains(**word));
        assert!(
            module != "wire" || found.is_none(),
            "{}: {line}",
            path.display()
        );
    }
}

#[test]
fn unsafe_code_is_where_it_is_said_to_be() {
    for (_, path, line) in lines() {
        let allowed = ["src/sys/socket.rs", "src/sys/poller/portable.rs"]
            .contains(&path.to_string_lossy().as_ref());
        assert!(
            allowed || !line.contains("unsafe {"),
            "{}: {line}",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_to_do() {
    let marks =
        ["TO", "FIX"].map(|half| format!("{half}{}", if half == "TO" { "DO" } else { "ME" }));
    for (_, path, line) in lines() {
        assert!(
            !marks.iter().any(|mark| line.contains(mark)),
            "{}: {line}",
            path.display()
        );
        assert!(
            !line.contains("todo!") && !line.contains("unimplemented!"),
            "{}: {line}",
            path.display()
        );
    }
}
