//! The bodies of requests and responses arrive complete, or it is visible that they do not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "router")]
mod declared;
mod expect;
mod failing;
mod request;
mod response;
mod slow_clients;
#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use lameduck::body::BodyWriter;
use lameduck::{Body, Context, IntoResponse, Request, Response};

use support::{Answer, pattern};

const BIG: usize = 10 << 20;

/// The length of a smaller body, which still takes more than a few pulls and reads.
const SMALLER: usize = 300_000;

fn big() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| pattern(BIG))
}

/// Returns the number of `bytes`, and a sum that depends on the place of each byte.
fn digest(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    format!("{} {sum:x}", bytes.len())
}

fn read_all(request: Request, _: Context) -> io::Result<String> {
    let mut body = Vec::new();
    let declared = request.body().len();
    request.into_body().read_to_end(&mut body)?;
    assert!(
        declared.is_none_or(|len| len == body.len() as u64),
        "{declared:?}"
    );
    Ok(digest(&body))
}

/// Answers with a body of the kind that the path names: mostly `big`, or with `?smaller` the
/// beginning of it.
fn of_each_kind(request: Request, _: Context) -> Response {
    let big = if request.uri().query() == Some("smaller") {
        &big()[..SMALLER]
    } else {
        big()
    };
    match request.uri().path() {
        "/empty" => ().into_response(),
        "/str" => "text".into_response(),
        "/string" => String::from("text").into_response(),
        "/slice" => b"text".as_slice().into_response(),
        "/vec" => big.to_vec().into_response(),
        "/bytes" => bytes::Bytes::from_static(big).into_response(),
        "/reader" => Body::reader(Cursor::new(big)).into_response(),
        "/sized" => Body::sized_reader(Cursor::new(big), big.len() as u64).into_response(),
        "/part" => Body::sized_reader(io::repeat(b'x').take(4), 4).into_response(),
        "/nothing" => Body::reader(io::empty()).into_response(),
        "/unwritten" => Body::writer(|_| Ok(())).into_response(),
        "/writer" => Body::writer(move |out| out.write_all(big)).into_response(),
        "/pieces" => {
            Body::writer(move |out| big.chunks(9999).try_for_each(|piece| out.write_all(piece)))
                .into_response()
        }
        "/flushed" => Body::writer(|out: &mut BodyWriter<'_>| {
            out.flush()?;
            out.write_all(b"te")?;
            out.flush()?;
            out.flush()?;
            out.write_all(b"")?;
            out.write_all(b"xt")
        })
        .into_response(),
        "/file" => Body::try_from(File::open(big_file()).unwrap())
            .unwrap()
            .into_response(),
        other => panic!("{other}"),
    }
}

/// Each path of [`of_each_kind`], whether its body has a length, and how many bytes it has.
const KINDS: [(&str, bool, usize); 15] = [
    ("/empty", true, 0),
    ("/str", true, 4),
    ("/string", true, 4),
    ("/slice", true, 4),
    ("/vec", true, BIG),
    ("/bytes", true, BIG),
    ("/reader", false, BIG),
    ("/sized", true, BIG),
    ("/part", true, 4),
    ("/nothing", false, 0),
    ("/unwritten", false, 0),
    ("/writer", false, BIG),
    ("/pieces", false, BIG),
    ("/flushed", false, 4),
    ("/file", true, BIG),
];

#[track_caller]
fn assert_body(answer: &Answer, path: &str, len: usize) {
    assert_eq!(answer.status, 200, "{path}");
    let expected: &[u8] = match (path, len) {
        ("/part", _) => b"xxxx",
        (_, 4) => b"text",
        _ => &big()[..len],
    };
    assert!(
        answer.body == expected,
        "{path}: {} of {len} bytes",
        answer.body.len()
    );
}

/// Returns the file that `/file` sends, which is made once.
fn big_file() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let path = std::env::temp_dir().join("lameduck-test-bodies");
        let own = path.with_extension(std::process::id().to_string());
        std::fs::write(&own, big()).unwrap();
        std::fs::rename(own, &path).unwrap();
        path
    });
    path.clone()
}
