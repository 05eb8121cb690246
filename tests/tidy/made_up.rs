//! Tests of the checker, on crates that are made up.

use crate::arrows::{arrows, climbs};
use crate::cycles::cycles;
use crate::modules::{Crate, Sources};

/// The file of the module `low::inner::deep`, whose text each test of climbs gives.
const DEEP: &str = "src/low/inner/deep.rs";

/// Checks which paths in `DEEP` go up from the floor `low` to `high`, each as `line: path`.
#[track_caller]
fn check_climbs(deep: &str, expected: &[&str]) {
    let library = library(&[
        (
            "src/lib.rs",
            "mod low; mod high; pub use high::rise::Kite; pub mod kites { pub use crate::Kite; }",
        ),
        (
            "src/low/mod.rs",
            "mod inner; mod name; pub(crate) struct Stone;",
        ),
        ("src/low/name.rs", "pub(crate) struct Name;"),
        ("src/low/inner.rs", "mod deep; pub(crate) struct Inner;"),
        (DEEP, deep),
        (
            "src/high/mod.rs",
            "pub(crate) mod rise; pub(crate) fn climb() {}",
        ),
        (
            "src/high/rise.rs",
            "use crate::low::Stone; pub struct Kite;",
        ),
    ]);
    let found: Vec<_> = climbs(&library).iter().map(ToString::to_string).collect();
    let whole = |climb| format!("{DEEP}:{climb} goes up from `low` to `high`");
    let expected: Vec<_> = expected.iter().map(whole).collect();
    assert_eq!(found, expected, "{deep}");
}

/// Checks that climbs in something for tests only are not seen, while one on the line after is.
#[track_caller]
fn check_is_for_tests(code: &str) {
    let line = code.lines().count();
    let expected = format!("{line}: crate::high::climb");
    check_climbs(code, &[&expected]);
}

/// Checks which files make cycles, in a crate with the modules `a` and `b`.
#[track_caller]
fn check_cycles(files: &[(&str, &str)], expected: &[&[&str]]) {
    let library = library(&[&[("src/lib.rs", "mod a; mod b; pub use b::B;")], files].concat());
    let found = cycles(&arrows(&library));
    let found: Vec<Vec<_>> = found
        .iter()
        .map(|cycle| cycle.files.iter().map(String::as_str).collect())
        .collect();
    assert_eq!(found, expected);
}

fn library(files: &[(&str, &str)]) -> Crate {
    let owned = |(file, text): &(&str, &str)| ((*file).to_owned(), (*text).to_owned());
    Crate::of(&files.iter().map(owned).collect::<Sources>())
}

#[test]
fn a_path_on_its_own_floor_or_below_is_fine() {
    check_climbs(
        "use crate::low::name::Name; use super::{Inner, super::Stone}; use std::high::climb;
        fn f() { self::g(); ::high::climb(); low::high(); x.high::<T>() }",
        &[],
    );
}

#[test]
fn a_climb_in_a_use_item_is_seen() {
    check_climbs(
        "use crate::high::climb;\npub(super) use crate::high::rise as fall;\nuse crate::high::*;",
        &[
            "1: crate::high::climb",
            "2: crate::high::rise",
            "3: crate::high::*",
        ],
    );
}

#[test]
fn a_climb_in_a_nested_group_is_seen() {
    check_climbs(
        "use {std::fmt, crate::{low::{self, name::Name},\nhigh::{self, rise::{Kite as _, Wind}}}};",
        &[
            "2: crate::high",
            "2: crate::high::rise::Kite",
            "2: crate::high::rise::Wind",
        ],
    );
}

#[test]
fn a_climb_in_a_function_body_is_seen() {
    check_climbs(
        "fn f() {\nif true { crate::high::climb() }\nlet all = ..crate::high::MAX; }",
        &["2: crate::high::climb", "3: crate::high::MAX"],
    );
}

#[test]
fn a_climb_in_a_type_or_an_attribute_is_seen() {
    check_climbs(
        "#[derive(crate::high::Rise)]\nstruct A(Vec<crate::high::rise::Kite>, pub (crate::Kite, u8));",
        &[
            "1: crate::high::Rise",
            "2: crate::Kite",
            "2: crate::high::rise::Kite",
        ],
    );
}

#[test]
fn a_climb_in_a_macro_is_seen() {
    check_climbs(
        "fn f() { log::info!(\"{}\", crate::high::climb()); }
        macro_rules! m { ($a:expr) => { $crate::high::climb($a) } }",
        &["1: crate::high::climb", "2: crate::high::climb"],
    );
}

#[test]
fn a_climb_through_super_is_seen() {
    check_climbs(
        "fn f() { super::super::super::high::climb() }
        mod inline { fn f() { super::super::super::name::f(); super::super::super::super::Kite } }",
        &[
            "1: super::super::super::high::climb",
            "2: super::super::super::super::Kite",
        ],
    );
}

#[test]
fn a_climb_through_a_reexport_is_seen() {
    check_climbs(
        "fn f(_: crate::Kite) {}\nfn g(_: crate::kites::Kite) {}",
        &["1: crate::Kite", "2: crate::kites::Kite"],
    );
}

#[test]
fn a_climb_through_an_imported_module_is_seen() {
    check_climbs(
        "use crate::high as above;\nfn f() { above::rise::lift() }",
        &["1: crate::high", "2: above::rise::lift"],
    );
}

#[test]
fn a_climb_in_a_comment_or_a_string_is_none() {
    check_climbs(
        r##"//! [`crate::high::climb`]
        // crate::high::climb(), /* crate::high::climb() */
        /// [`climb`](crate::high::climb)
        #[doc = "crate::high::climb"]
        fn f() { g("crate::high::climb", r#"crate::high::climb"#, b"crate::high::climb", '"'); }"##,
        &[],
    );
}

#[test]
fn a_climb_in_a_test_is_none() {
    check_is_for_tests("#[cfg(test)] mod t { use crate::high::a; }\nuse crate::high::climb;");
    check_is_for_tests("#[cfg(test)] mod not_there;\nuse crate::high::climb;");
    check_is_for_tests("#[cfg(test)] pub(crate) use crate::high::{a, b};\nuse crate::high::climb;");
    check_is_for_tests(
        "#[cfg(all(test, unix))] #[inline] fn f<A, B>() -> crate::high::A where A: B, B: A { crate::high::b() }
        fn g() { crate::high::climb() }",
    );
    check_is_for_tests(
        "impl A { /** Doc. */ #[cfg(test)] pub(crate) const fn a(&self, b: u8) { crate::high::a() }
        fn g() { crate::high::climb() } }",
    );
    check_is_for_tests(
        "fn f() { #[cfg(test)] let a = if b { crate::high::a() } else { crate::high::b() };
        crate::high::climb() }",
    );
    check_is_for_tests(
        "fn f() { #[cfg(test)] for a in b { crate::high::a() }
        crate::high::climb() }",
    );
    check_is_for_tests(
        "struct A { #[cfg(test)] a: HashMap<fn(u8) -> crate::high::A, crate::high::B>,
        b: crate::high::climb }",
    );
    check_is_for_tests(
        "fn f() -> A { A { #[cfg(test)] a: 1 < crate::high::A,
        b: crate::high::climb } }",
    );
    check_is_for_tests(
        "enum A { #[cfg(test)] B(crate::high::A), #[cfg(test)] C { c: crate::high::A },
        D(crate::high::climb) }",
    );
    check_is_for_tests(
        "fn f() { match a { #[cfg(test)] A { b } => crate::high::a(), #[cfg(test)] B => { crate::high::b() }
        C => crate::high::climb() } }",
    );
}

#[test]
fn a_climb_that_only_a_model_or_a_fuzz_target_makes_is_none() {
    check_is_for_tests(
        "#[cfg(any(test, fuzzing))] fn f() { crate::high::a() }
        #[cfg(loom)] use crate::high::b; use crate::high::climb;",
    );
}

#[test]
fn a_climb_that_not_only_tests_make_is_seen() {
    check_climbs(
        "#[cfg(not(test))] use crate::high::a;\n#[cfg(any(test, unix))] use crate::high::b;
        #[cfg(feature = \"test\")] use crate::high::c;",
        &[
            "1: crate::high::a",
            "2: crate::high::b",
            "3: crate::high::c",
        ],
    );
}

#[test]
fn a_file_for_tests_only_is_not_read() {
    check_climbs("#![cfg(test)] use crate::high::climb;", &[]);
    check_cycles(
        &[
            ("src/a.rs", "#[cfg(test)] mod odd_name; pub struct A;"),
            ("src/a/odd_name.rs", "use crate::b::B;"),
            ("src/b.rs", "use crate::a::A; pub struct B;"),
        ],
        &[],
    );
}

#[test]
fn two_files_that_name_each_other_are_a_cycle() {
    check_cycles(
        &[
            ("src/a.rs", "fn a() { crate::b::b() }"),
            ("src/b.rs", "fn b() { super::a::a() }"),
        ],
        &[&["src/a.rs", "src/b.rs"]],
    );
}

#[test]
fn a_cycle_is_found_through_reexports_and_further_files() {
    check_cycles(
        &[
            ("src/a/mod.rs", "mod c; mod d; pub(crate) use c::*;"),
            ("src/a/c.rs", "use crate::B; pub(crate) struct C;"),
            ("src/a/d.rs", "use super::C;"),
            ("src/b.rs", "use crate::a::C as A; pub struct B(A);"),
        ],
        &[&["src/a/c.rs", "src/b.rs"]],
    );
}

#[test]
fn a_name_from_another_crate_is_that_of_the_file_that_reexports_it() {
    check_cycles(
        &[
            (
                "src/a.rs",
                "use crate::B; pub(crate) use {std::sync::Mutex, std::sync::Arc};",
            ),
            ("src/b.rs", "use crate::a::Mutex; pub struct B;"),
        ],
        &[&["src/a.rs", "src/b.rs"]],
    );
    check_cycles(
        &[
            ("src/a.rs", "use crate::B; pub(crate) use bytes;"),
            ("src/b.rs", "pub struct B(crate::a::bytes::Bytes);"),
        ],
        &[&["src/a.rs", "src/b.rs"]],
    );
}

#[test]
fn a_module_that_only_declares_and_reexports_is_in_no_cycle() {
    let children = [
        ("src/a/c.rs", "use super::D; pub(crate) struct C;"),
        ("src/a/d.rs", "use super::LIMIT; pub(crate) struct D;"),
        ("src/b.rs", "pub struct B;"),
    ];
    let parent = "mod c; mod d; pub(crate) use {c::C, d::D}; const LIMIT: usize = 1;";
    check_cycles(&[&[("src/a/mod.rs", parent)], &children[..]].concat(), &[]);
    let parent = format!("{parent} fn all(_: C) {{}}");
    check_cycles(
        &[&[("src/a/mod.rs", parent.as_str())], &children[..]].concat(),
        &[&["src/a/c.rs", "src/a/d.rs", "src/a/mod.rs"]],
    );
}
