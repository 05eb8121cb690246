//! The functions that the fuzz targets in `tests/fuzz` call. Only cargo-fuzz builds this module.
//!
//! The first four bytes of an input choose how the rest is cut into pieces, how much room there is
//! for content, which limits apply, and how the body is framed. The rest is what a peer sends.

use http::Method;

use crate::settings::Limits;
use crate::wire::framing::Framing;
use crate::wire::oracle;

/// Reads any bytes as a request head, and as a request target.
pub fn head(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    oracle::target(&Method::OPTIONS, case.bytes);
    oracle::head(case.bytes, &case.pieces, &case.limits);
}

/// Reads any bytes as a body, of the framing that the input chooses.
pub fn body(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    oracle::body(
        case.framing,
        case.bytes,
        &case.pieces,
        &case.rooms,
        &case.limits,
    );
}

/// Reads any bytes as all that arrives on a connection.
pub fn connection(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    oracle::connection(case.bytes, &case.pieces, &case.limits);
}

/// An input of the fuzzer, taken apart.
struct Case<'a> {
    bytes: &'a [u8],
    pieces: [usize; 2],
    rooms: [usize; 2],
    limits: Limits,
    framing: Framing,
}

impl<'a> Case<'a> {
    fn of(data: &'a [u8]) -> Option<Self> {
        let (&[pieces, rooms, limit, framing], bytes) = data.split_first_chunk()?;
        let nibbles = |byte: u8| [usize::from(byte >> 4), usize::from(byte & 15)];
        let framing = match framing {
            0 => Framing::Empty,
            1 => Framing::UntilClose,
            2..128 => Framing::Length(u64::from(framing)),
            128 => Framing::Length(u64::MAX),
            _ => Framing::Chunked,
        };
        let [long, short] = nibbles(pieces);
        Some(Self {
            bytes,
            pieces: [long * 8 + 1, short + 1],
            rooms: nibbles(rooms),
            limits: limits(limit),
            framing,
        })
    }
}

/// Returns the default limits, or low ones that a short input reaches.
fn limits(byte: u8) -> Limits {
    let most = usize::from(byte);
    match most {
        0..128 => Limits::default(),
        _ => Limits {
            max_request_line_bytes: most / 4,
            max_head_bytes: most,
            max_fields: most % 5,
            max_chunk_extension_bytes: most % 11,
            max_chunk_extensions_bytes: most % 23,
            max_trailer_bytes: most % 41,
            max_trailer_fields: most % 3,
        },
    }
}
