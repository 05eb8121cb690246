//! Lines that are refused: line ends, control characters, folding and names.

use super::*;

#[test]
fn lf_alone_wherever_a_line_ends() {
    for head in [
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        check(head, "400 a line ends with LF alone, without CR");
    }
}

#[test]
fn cr_alone_wherever_it_is() {
    for head in [
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHo\rst: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rX",
        "GET / HTTP/1.1\r\nHost: a\r\nX: b\rTransfer-Encoding: chunked\r\n\r\n",
    ] {
        check(head, "400 a CR is not followed by LF");
    }
}

#[test]
fn every_control_character_wherever_it_is() {
    for byte in (0..0x20)
        .chain([0x7f])
        .filter(|byte| !b"\t\r\n".contains(byte))
    {
        let byte = char::from(byte);
        check(
            format!("G{byte}ET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            "400 a control character in the head",
        );
        check(
            target("GET", &format!("/{byte}")),
            "400 a control character in the head",
        );
        check(
            get(&format!("X{byte}: a")),
            "400 a control character in the head",
        );
        check(
            get(&format!("X: a{byte}")),
            "400 a control character in the head",
        );
        check(
            get(&format!("Transfer-Encoding: {byte}chunked")),
            "400 a control character in the head",
        );
    }
}

#[test]
fn a_folded_line() {
    for line in [
        "X: a\r\n b",
        "X: a\r\n\tb: c",
        "Transfer-Encoding:\r\n chunked",
        "X: a\r\n ",
    ] {
        check(get(line), "400 a field line begins with whitespace");
    }
    check(
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "400 a field line begins with whitespace",
    );
}

#[test]
fn whitespace_before_the_colon() {
    for line in [
        "Content-Length : 5",
        "Transfer-Encoding\t: chunked",
        "X : a",
    ] {
        check(
            post(line),
            "400 whitespace between a field name and its colon",
        );
    }
}

#[test]
fn a_line_without_a_colon() {
    check(get("Host"), "400 a field line without a colon");
    check(
        get("GET /admin HTTP/1.1"),
        "400 a field line without a colon",
    );
}

#[test]
fn an_empty_field_name() {
    check(get(": a"), "400 a field name is not a token");
}

#[test]
fn every_byte_that_is_not_of_a_token_in_a_field_name() {
    for byte in (0x80..=0xff).chain(*b" \"(),/;<=>?@[\\]{}") {
        let head = [
            b"GET / HTTP/1.1\r\nHost: a\r\nX",
            &[byte][..],
            b"Y: b\r\n\r\n",
        ]
        .concat();
        check(head, "400 a field name is not a token");
    }
}
