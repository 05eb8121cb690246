//! Heads at a limit are taken, and heads beyond it are refused as soon as that is known.

use super::*;

#[test]
fn a_request_line_may_be_as_long_as_the_limit() {
    let limits = Limits {
        request_line_bytes_max: 40,
        ..Limits::default()
    };
    let path = "/".repeat(40 - "GET  HTTP/1.1".len());
    check_within(
        &limits,
        target("GET", &path),
        &format!("GET {path} HTTP/1.1 Empty KeepAlive"),
    );
    check_within(
        &limits,
        format!("\r\n\r\n{}", target("GET", &path)),
        &format!("GET {path} HTTP/1.1 Empty KeepAlive"),
    );
    check_within(
        &limits,
        target("GET", &format!("{path}/")),
        "414 the request line is too long",
    );
    check_within(
        &limits,
        format!("{} /", "M".repeat(39)),
        "414 the request line is too long",
    );
    check_within(&limits, "M".repeat(41), "501 the method is too long");
}

#[test]
fn a_head_may_be_as_long_as_the_limit() {
    let head = format!("\r\n{}", get("X: some value"));
    let just = Limits {
        head_bytes_max: head.len(),
        ..Limits::default()
    };
    check_within(&just, &head, "GET / HTTP/1.1 Empty KeepAlive");
    check_within(
        &just,
        format!("{head}GET"),
        "GET / HTTP/1.1 Empty KeepAlive",
    );
    let less = Limits {
        head_bytes_max: head.len() - 1,
        ..Limits::default()
    };
    check_within(&less, &head, "431 the request head is too long");
    check_within(
        &less,
        format!("{head}GET"),
        "431 the request head is too long",
    );
}

#[test]
fn a_head_may_have_as_many_fields_as_the_limit() {
    let limits = Limits {
        fields_max: 3,
        ..Limits::default()
    };
    check_within(
        &limits,
        get("X: a\r\nX: b"),
        "GET / HTTP/1.1 Empty KeepAlive",
    );
    check_within(
        &limits,
        get("X: a\r\nX: b\r\nX: c"),
        "431 the request head has too many fields",
    );
}

#[test]
fn the_limit_of_fields_can_be_raised_above_the_default() {
    let limits = Limits {
        fields_max: 300,
        ..Limits::default()
    };
    let get_with = |n_fields: usize| get(&vec!["X: a"; n_fields - 1].join("\r\n"));
    for n_fields in [Limits::FIELDS_MAX, Limits::FIELDS_MAX + 1, 300] {
        let head = HeadScan::new()
            .parse(get_with(n_fields).as_bytes(), &limits)
            .unwrap()
            .unwrap();
        assert_eq!(head.parts.headers.len(), n_fields);
    }
    let parsed = HeadScan::new().parse(get_with(301).as_bytes(), &limits);
    assert_eq!(summary(&parsed), "431 the request head has too many fields");
}

#[test]
fn empty_lines_for_ever_are_a_long_head() {
    let limits = Limits {
        head_bytes_max: 100,
        ..Limits::default()
    };
    check_within(
        &limits,
        "\r\n".repeat(51),
        "431 the request head is too long",
    );
}

#[test]
fn by_default_a_line_has_16_kib_and_a_head_64_kib_and_100_fields() {
    let parse =
        |input: String| summary(&HeadScan::new().parse(input.as_bytes(), &Limits::default()));
    let long = "a".repeat(16 * 1024);
    assert_eq!(
        parse(target("GET", &format!("/{long}"))),
        "414 the request line is too long"
    );
    assert_eq!(
        parse(get(&format!("X: {}", long.repeat(4)))),
        "431 the request head is too long"
    );
    assert_eq!(
        parse(get(&"X: a\r\n".repeat(100))),
        "431 the request head has too many fields"
    );
}

#[test]
fn more_fields_than_a_header_map_holds_are_refused_without_a_panic() {
    let limits = Limits {
        head_bytes_max: 1 << 20,
        fields_max: usize::MAX,
        ..Limits::default()
    };
    let mut fields = String::new();
    for number in 0..40_000 {
        write!(fields, "x{number}: a\r\n").unwrap();
    }
    let parsed = HeadScan::new().parse(get(&fields).as_bytes(), &limits);
    assert_eq!(summary(&parsed), "431 the request head has too many fields");
}
