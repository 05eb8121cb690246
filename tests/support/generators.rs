//! Requests as clients, broken clients and attackers write them: valid ones, and ones that differ
//! from them in what parsers differ on.
//!
//! The integration tests and, by path, the unit tests of `wire/` use it.

#![allow(dead_code, reason = "each test uses its own part")]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

/// Runs this many cases, the same each time. `PROPTEST_CASES` in the environment asks for as many
/// others instead.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let run = if asked {
        ProptestConfig::default()
    } else {
        ProptestConfig {
            rng_seed: RngSeed::Fixed(0x6c64),
            ..ProptestConfig::with_cases(cases)
        }
    };
    // An input that fails becomes a named test. A file of seeds would say nothing to a reader.
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 4096,
        ..run
    }
}

/// What arrives on a connection: a few requests after each other, damaged in some places, or no
/// HTTP at all.
pub(crate) fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => damaged(vec(request(), 1..4).prop_map(|requests| requests.concat()).boxed()),
        1 => vec(any::<u8>(), 0..200),
        1 => vec(select(&b"GET /HTP1.0\r\n\r\n:;, 59aChunked\t\"=\0"[..]), 0..200),
    ]
}

/// One request with the body it declares, or with another.
pub(crate) fn request() -> impl Strategy<Value = Vec<u8>> {
    let fields = (host(), vec(field(), 0..4), any::<Index>());
    (start(), request_line(), fields, framed_body(), line_end()).prop_map(
        |(start, line, (host, mut fields, place), (framing, body), line_end)| {
            fields.extend(host);
            // The place of the framing among the fields must make no difference.
            let place = place.index(fields.len() + 1);
            fields.splice(place..place, framing);
            let mut request = start.to_vec();
            for line in [line].iter().chain(&fields) {
                request.extend_from_slice(line);
                request.extend_from_slice(line_end);
            }
            request.extend_from_slice(line_end);
            request.extend_from_slice(&body);
            request
        },
    )
}

/// A chunked body with whatever may come in one, damaged in some places.
pub(crate) fn chunked() -> impl Strategy<Value = Vec<u8>> {
    damaged(chunks().boxed())
}

/// How bytes are cut into pieces: the lengths of the pieces, which repeat.
pub(crate) fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), vec(1..6_usize, 1..8), vec(1..80_usize, 1..8)]
}

fn start() -> impl Strategy<Value = &'static [u8]> {
    or_rarely(b"", &[b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\r\n "])
}

fn request_line() -> impl Strategy<Value = Vec<u8>> {
    let space = || or_rarely(b" ", &[b"  ", b"\t", b"", b"\r", b"\x0b"]);
    (method(), space(), target(), space(), version()).prop_map(
        |(method, before, target, after, version)| {
            [method, before, &target, after, version].concat()
        },
    )
}

fn method() -> impl Strategy<Value = &'static [u8]> {
    let usual = [&b"GET"[..], b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE"];
    let odd = [
        &b"TRACE"[..],
        b"CONNECT",
        b"PRI",
        b"get",
        b"M-SEARCH",
        b"a!#$%&'*+-.^_`|~9",
        b"",
        b"G(T",
        b"G\xc3T",
    ];
    prop_oneof![12 => select(usual.to_vec()), 1 => select(odd.to_vec())]
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    let character = prop_oneof![
        60 => select(&b"abcXYZ019/?&=-._~!$'()*+,;:@"[..]),
        4 => select(&b"[]{}|^%<>`\"\\#"[..]),
        1 => any::<u8>(),
    ];
    let known = [
        &b"/"[..],
        b"/a?b=c",
        b"/%41%2f",
        b"//x/../y",
        b"/?q={a}|^[b]",
        b"http://b/",
        b"http://b:80/c?d",
        b"HTTP://b",
        b"https://b?c",
        b"http://[::1]/",
    ];
    let odd = [
        &b"*"[..],
        b"http://[::1",
        b"http:///a",
        b"http://u@b/",
        b"http://b:99999/",
        b"http://b:/",
        b"ftp://b/",
        b"b:80",
        b"b",
        b"/a#b",
        b"http://b#c",
        b"",
        b"/%",
        b"/%4",
        b"/%zz",
        b"?a",
        b"http://b\\c/",
        b"/a\xc3\xa9",
    ];
    prop_oneof![
        12 => vec(character, 0..12).prop_map(|path| [b"/", &path[..]].concat()),
        6 => select(known.to_vec()).prop_map(<[u8]>::to_vec),
        1 => select(odd.to_vec()).prop_map(<[u8]>::to_vec),
    ]
}

fn version() -> impl Strategy<Value = &'static [u8]> {
    let odd = [
        &b"HTTP/1.2"[..],
        b"HTTP/1.9",
        b"HTTP/2.0",
        b"HTTP/0.9",
        b"HTTP/1.10",
        b"HTTP/1",
        b"http/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1,1",
        b"HTTPS/1.1",
        b"",
    ];
    prop_oneof![10 => Just(&b"HTTP/1.1"[..]), 2 => Just(&b"HTTP/1.0"[..]), 1 => select(odd.to_vec())]
}

/// `Host` fields: one valid one, mostly.
fn host() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let odd = [
        &b"Host:"[..],
        b"Host: a:80",
        b"hOST:\ta\t",
        b"Host: [::1]:8",
        b"Host: a, b",
        b"Host: a b",
        b"Host: a/b",
        b"Host: a:b",
        b"Host : a",
        b"Host: a@b",
        b"Host: \xe9",
        b"Host: a\0",
    ];
    prop_oneof![
        30 => Just(vec![b"Host: a".to_vec()]),
        2 => select(odd.to_vec()).prop_map(|field| vec![field.to_vec()]),
        1 => Just(Vec::new()),
        1 => Just(vec![b"Host: a".to_vec(), b"Host: a".to_vec()]),
    ]
}

/// A field that says nothing about the body.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        &b"Connection: close"[..],
        b"Connection: keep-alive",
        b"Connection: Keep-Alive, close",
        b"Connection: close, TE",
        b"Connection: upgrade",
        b"Connection:",
        b"Connection: content-length",
        b"Upgrade: websocket",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"expect: 100-Continue",
        b"Expect: 200-ok",
        b"Expect:",
        b"TE: trailers",
        b"Trailer: x",
        b"Accept: */*",
        b"Cookie: a=b; c=\"d\"",
        b"X-Empty:",
        b"Content-Type: text/plain",
    ];
    let odd = [
        &b"no colon"[..],
        b": no name",
        b"A : b",
        b" folded",
        b"\tfolded: too",
        b"A: b\r\n c",
        b"A: b\rC: d",
        b"A: b\nC: d",
        b"A: \0",
        b"A\0: b",
        b"A(b): c",
        b"A: \x7f",
        b"\xc3\xa9: a",
        b"\x0bA: b",
        b"A:\x0bb",
    ];
    let name = vec(select(&b"abcXYZ019-_!#$%&'*+.^`|~"[..]), 1..6);
    let value = vec(
        prop_oneof![12 => 0x20..0x7f_u8, 1 => Just(b'\t'), 1 => 0x80..=0xff_u8],
        0..12,
    );
    prop_oneof![
        12 => select(known.to_vec()).prop_map(<[u8]>::to_vec),
        12 => (name, separator(), value).prop_map(|(name, separator, value)| [&name, separator, &value[..]].concat()),
        1 => select(odd.to_vec()).prop_map(<[u8]>::to_vec),
    ]
}

fn separator() -> impl Strategy<Value = &'static [u8]> {
    let odd = [&b" :"[..], b":\t ", b"\t:", b"::", b": \r"];
    prop_oneof![20 => Just(&b": "[..]), 3 => Just(&b":"[..]), 1 => select(odd.to_vec())]
}

/// The fields that frame a body, and the body.
fn framed_body() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
    let length = (
        data(),
        or_rarely(b"", &[b"+", b"-", b"0", b" ", b"0x", b","]),
        or_rarely(b"", &[b" ", b",", b".0", b";a", b", 3"]),
    );
    let lying = (data(), 0..40_usize);
    let odd_length = [
        &b"Content-Length: 18446744073709551615"[..],
        b"Content-Length: 18446744073709551616",
        b"Content-Length: 9223372036854775807",
        b"Content-Length: 99999999999999999999999999",
        b"Content-Length:",
        b"Content-Length: +5",
        b"Content-Length: -5",
        b"Content-Length: 0x5",
        b"Content-Length: 5 5",
        b"Content-Length: 5, 5",
        b"Content-Length: 5_0",
        b"Content-Length: \xb2",
        b"Content-Length : 5",
        b"Content_Length: 5",
        b"Content-Length: 00000000000000000000005",
    ];
    let coding = [
        &b"Transfer-Encoding: chunked"[..],
        b"transfer-encoding:CHUNKED",
        b"Transfer-Encoding: \tchunked\t ",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked,",
        b"Transfer-Encoding: ,chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: \"chunked\"",
        b"Transfer-Encoding: chunked;a=b",
        b"Transfer-Encoding: chunk\xe9d",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding:",
        b"Transfer_Encoding: chunked",
        b"X: y\nTransfer-Encoding: chunked",
    ];
    let chunked_field = || b"Transfer-Encoding: chunked".to_vec();
    prop_oneof![
        5 => Just((Vec::new(), Vec::new())),
        4 => length.prop_map(|(body, before, after)| {
            let len = body.len().to_string();
            (vec![[b"Content-Length: ", before, len.as_bytes(), after].concat()], body)
        }),
        1 => lying.prop_map(|(body, len)| (vec![format!("Content-Length: {len}").into_bytes()], body)),
        1 => (data(), 1..3_usize).prop_map(|(body, more)| {
            let field = format!("Content-Length: {}", body.len()).into_bytes();
            (vec![field; more + 1], body)
        }),
        1 => (select(odd_length.to_vec()), data()).prop_map(|(field, body)| (vec![field.to_vec()], body)),
        5 => chunks().prop_map(move |body| (vec![chunked_field()], body)),
        2 => (select(coding.to_vec()), chunks()).prop_map(|(field, body)| (vec![field.to_vec()], body)),
        1 => (chunks(), any::<bool>()).prop_map(move |(body, first)| {
            let mut fields = vec![chunked_field(), format!("Content-Length: {}", body.len()).into_bytes()];
            if first {
                fields.reverse();
            }
            (fields, body)
        }),
    ]
}

/// The content of a body, which may look like a request.
fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..40),
        1 => Just(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        1 => Just(b"0\r\n\r\n".to_vec()),
    ]
}

fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let size = (
        or_rarely(
            b"",
            &[
                b"0",
                b"0000000000000",
                b"00000000000000000",
                b"0x",
                b"+",
                b"-",
                b" ",
                b"\t",
            ],
        ),
        any::<bool>(),
    );
    let extension = or_rarely(
        b"",
        &[
            b";a",
            b";a=b",
            b";a=\"b;\\\"c\"",
            b" ;a",
            b"; a = b",
            b" ",
            b"\t",
            b";",
            b";a=",
            b";a=\"b",
            b";a\n",
            b"\r",
            b";a=\"\n\"",
            b"_0",
            b";\xe9",
            b";a b",
            b";a=\"\xe9\x80\";c;d=e",
        ],
    );
    let chunk = (size, data(), extension, line_end(), line_end()).prop_map(
        |((before, is_upper), data, extension, after_size, after_data)| {
            let size = if is_upper {
                format!("{:X}", data.len())
            } else {
                format!("{:x}", data.len())
            };
            [
                before,
                size.as_bytes(),
                extension,
                after_size,
                &data,
                after_data,
            ]
            .concat()
        },
    );
    let last = or_rarely(
        b"0",
        &[
            b"00",
            b"0;a",
            b"000000000000000000",
            b"",
            b"10000000000000000",
            b"ffffffffffffffff",
            b"0 ",
        ],
    );
    (vec(chunk, 0..4), last, line_end(), trailers(), line_end()).prop_map(
        |(chunks, last, after_last, trailers, end)| {
            [&chunks.concat(), last, after_last, &trailers, end].concat()
        },
    )
}

fn trailers() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        &b"X: y"[..],
        b"x-checksum:\tab\t",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Host: b",
        b"Authorization: a",
        b"GET / HTTP/1.1",
        b" folded: a",
        b"a : b",
        b"a: \0",
    ];
    prop_oneof![
        6 => Just(Vec::new()),
        1 => vec((select(known.to_vec()), line_end()), 1..4)
            .prop_map(|lines| lines.into_iter().flat_map(|(line, end)| [line, end].concat()).collect()),
    ]
}

fn line_end() -> impl Strategy<Value = &'static [u8]> {
    let odd = [&b"\n"[..], b"\r", b"\r\r\n", b"", b"\r\n ", b"\r\0\n"];
    prop_oneof![60 => Just(&b"\r\n"[..]), 1 => select(odd.to_vec())]
}

fn or_rarely(
    usual: &'static [u8],
    odd: &[&'static [u8]],
) -> impl Strategy<Value = &'static [u8]> + use<> {
    prop_oneof![24 => Just(usual), 1 => select(odd.to_vec())]
}

/// Changes a byte here and there, or nothing.
fn damaged(bytes: BoxedStrategy<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (
        bytes,
        prop_oneof![2 => Just(Vec::new()), 1 => vec(damage(), 1..4)],
    )
        .prop_map(|(mut bytes, damages)| {
            for damage in damages {
                damage.apply(&mut bytes);
            }
            bytes
        })
}

#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
    Truncate(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = || prop_oneof![select(&b"\r\n \t:;,\0\x7f\x800aG/\""[..]), any::<u8>()];
    prop_oneof![
        (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (any::<Index>(), 1..4_usize).prop_map(|(at, len)| Damage::Remove(at, len)),
        (any::<Index>(), 1..30_usize).prop_map(|(at, len)| Damage::Repeat(at, len)),
        any::<Index>().prop_map(Damage::Truncate),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match *self {
            Self::Set(at, byte) => *at.get_mut(bytes) = byte,
            Self::Insert(at, byte) => bytes.insert(at.index(bytes.len()), byte),
            Self::Remove(at, len) => {
                let at = at.index(bytes.len());
                bytes.drain(at..bytes.len().min(at + len));
            }
            Self::Repeat(at, len) => {
                let at = at.index(bytes.len());
                let part = bytes[at..bytes.len().min(at + len)].to_vec();
                bytes.splice(at..at, part);
            }
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}
