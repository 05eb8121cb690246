//! Reads bodies from the wire, chunked (RFC 9112 section 7.1) or of a declared length, and writes
//! chunks.
//!
//! [`Decoder`] takes input that is cut anywhere, and output of any size. It reads the framing byte
//! by byte, and copies the data in one piece. Of the input it keeps only the trailer fields, and
//! what has arrived of the line of the next one.

use http::header::HeaderMap;

use super::Refusal;
use super::framing::Framing;
use super::syntax::is_tchar;
use super::trailers::Trailers;
use crate::settings::Limits;

/// Appends one chunk. For empty data it appends nothing, because an empty chunk would end the body.
pub(crate) fn encode_chunk(data: &[u8], out: &mut Vec<u8>) {
    let Some(log) = data.len().checked_ilog2() else {
        return;
    };
    for digit in (0..=log / 4).rev() {
        out.push(b"0123456789abcdef"[data.len() >> (digit * 4) & 0xf]);
    }
    for part in [b"\r\n", data, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Takes a body out of the bytes of a connection, whatever its framing.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    limits: Limits,
    /// How many bytes of chunk extensions the body has had so far.
    extensions_bytes: usize,
    trailers: Trailers,
}

/// How far a call of [`Decoder::decode`] has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// How many bytes of the input were consumed.
    pub(crate) consumed: usize,
    /// How many bytes of the body are now at the start of the output.
    pub(crate) produced: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// In a body of a declared length, with the number of bytes left. With none left it is done.
    Length(u64),
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        part: Extension,
        /// How many bytes of this line are extensions so far.
        bytes: usize,
    },
    SizeLf(u64),
    /// In the data of a chunk, with the number of bytes left.
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a line of the trailer section.
    Trailer,
    TrailerLine,
    TrailerLf,
    /// In the empty line at the end of the trailer section.
    EndLf,
    Done,
    Refused(Refusal),
}

impl Decoder {
    pub(crate) fn new(framing: Framing, limits: &Limits) -> Self {
        let state = match framing {
            Framing::Empty => State::Length(0),
            Framing::Length(len) => State::Length(len),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            // This is never done, because all that arrives is body.
            Framing::UntilClose => State::Length(u64::MAX),
        };
        Self {
            state,
            limits: *limits,
            extensions_bytes: 0,
            trailers: Trailers::default(),
        }
    }

    /// Decodes as much of `input` as `output` has room for, and does not look past the end of the
    /// message.
    ///
    /// When there is no room left it goes on to just before the next byte of the body. After a
    /// refusal the output is worthless, and every further call refuses too.
    pub(crate) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Decoded, Refusal> {
        let mut decoded = Decoded::default();
        while decoded.consumed < input.len() && !self.is_done() {
            let rest = &input[decoded.consumed..];
            if let State::Length(left) | State::Data(left) = &mut self.state {
                let len = copy(rest, &mut output[decoded.produced..], *left);
                if len == 0 {
                    break;
                }
                *left -= len as u64;
                decoded.consumed += len;
                decoded.produced += len;
                if let State::Data(0) = self.state {
                    self.state = State::DataCr;
                }
            } else {
                self.state = self
                    .after(rest[0])
                    .inspect_err(|refusal| self.state = State::Refused(*refusal))?;
                decoded.consumed += 1;
            }
        }
        Ok(decoded)
    }

    /// Returns whether the body has ended.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Length(0) | State::Done)
    }

    /// Returns how many bytes of the body are still to come, if its length was declared.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Returns the fields that came after the last chunk, without those that must not come there.
    pub(crate) fn take_trailers(&mut self) -> HeaderMap {
        self.trailers.take()
    }

    /// Returns how many bytes of what a peer has sent are kept.
    #[cfg(any(test, fuzzing))]
    pub(super) fn bytes_kept(&self) -> usize {
        self.trailers.bytes_kept()
    }

    /// Returns the state after one more byte of the framing.
    fn after(&mut self, byte: u8) -> Result<State, Refusal> {
        match (self.state, byte) {
            (
                State::Size { .. } | State::Extension { .. } | State::Trailer | State::TrailerLine,
                b'\n',
            ) => Err(LINE_END),
            (State::Size { size, digits: 1.. }, b'\r') => Ok(State::SizeLf(size)),
            (State::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => {
                self.after_extension_byte(size, Extension::Whole, 0, byte)
            }
            (State::Size { size, digits }, _) => after_digit(size, digits, byte),
            (State::Extension { size, part, .. }, b'\r') if part.may_be_last() => {
                Ok(State::SizeLf(size))
            }
            (State::Extension { size, part, bytes }, _) => {
                self.after_extension_byte(size, part, bytes, byte)
            }
            (State::SizeLf(0), b'\n') => Ok(State::Trailer),
            (State::SizeLf(size), b'\n') => Ok(State::Data(size)),

            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
            (State::DataCr | State::DataLf, _) => Err(DATA_END),

            (State::Trailer, b'\r') => Ok(State::EndLf),
            (State::TrailerLine, b'\r') => Ok(State::TrailerLf),
            (State::Trailer | State::TrailerLine, _) => self
                .trailers
                .push(byte, &self.limits)
                .map(|()| State::TrailerLine),
            (State::TrailerLf, b'\n') => self
                .trailers
                .end_line(&self.limits)
                .map(|()| State::Trailer),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::SizeLf(_) | State::TrailerLf | State::EndLf, _) => Err(LINE_END),

            (State::Refused(refusal), _) => Err(refusal),
            (State::Length(_) | State::Data(_) | State::Done, _) => {
                unreachable!("the next byte is not one of the framing")
            }
        }
    }

    /// Skips a byte of an extension, within the limits.
    fn after_extension_byte(
        &mut self,
        size: u64,
        part: Extension,
        bytes: usize,
        byte: u8,
    ) -> Result<State, Refusal> {
        let part = part.after(byte).ok_or(EXTENSION)?;
        if bytes >= self.limits.max_chunk_extension_bytes
            || self.extensions_bytes >= self.limits.max_chunk_extensions_bytes
        {
            return Err(EXTENSIONS_TOO_LONG);
        }
        self.extensions_bytes += 1;
        Ok(State::Extension {
            size,
            part,
            bytes: bytes + 1,
        })
    }
}

/// How far a chunk extension has been read: `;name`, `;name=token` or `;name="quoted string"`, with
/// whitespace around `;` and `=`.
///
/// Extensions mean nothing to this server. They are checked because an attacker can exploit two
/// readers that differ on where such a line ends.
#[derive(Debug, Clone, Copy)]
enum Extension {
    /// After the chunk size or a quoted value.
    Whole,
    /// In whitespace after a complete size or extension, which only another extension may follow.
    Blank,
    NameStart,
    Name,
    NameBlank,
    ValueStart,
    Token,
    Quoted,
    Escaped,
}

impl Extension {
    /// Returns where the next byte leads, or `None` if it must not come here.
    fn after(self, byte: u8) -> Option<Self> {
        use Extension::{
            Blank, Escaped, Name, NameBlank, NameStart, Quoted, Token, ValueStart, Whole,
        };
        match (self, byte) {
            (Whole | Blank | Name | NameBlank | Token, b';') => Some(NameStart),
            (Whole | Blank | Token, b' ' | b'\t') => Some(Blank),
            (NameStart, b' ' | b'\t') => Some(NameStart),
            (NameStart | Name, _) if is_tchar(byte) => Some(Name),
            (Name | NameBlank, b' ' | b'\t') => Some(NameBlank),
            (Name | NameBlank, b'=') => Some(ValueStart),
            (ValueStart, b' ' | b'\t') => Some(ValueStart),
            (ValueStart, b'"') => Some(Quoted),
            (ValueStart | Token, _) if is_tchar(byte) => Some(Token),
            (Quoted, b'"') => Some(Whole),
            (Quoted, b'\\') => Some(Escaped),
            (Quoted | Escaped, _) if byte == b'\t' || !byte.is_ascii_control() => Some(Quoted),
            _ => None,
        }
    }

    /// Returns whether the line may end here.
    fn may_be_last(self) -> bool {
        matches!(self, Self::Whole | Self::Name | Self::Token)
    }
}

/// Returns the state after one more byte of a chunk size. The byte must be a hexadecimal digit: a
/// size has no sign, no prefix and no whitespace.
fn after_digit(size: u64, digits: u8, byte: u8) -> Result<State, Refusal> {
    let digit = char::from(byte).to_digit(16).ok_or(SIZE)?;
    if digits == 16 {
        return Err(SIZE_TOO_LARGE);
    }
    Ok(State::Size {
        size: size << 4 | u64::from(digit),
        digits: digits + 1,
    })
}

/// Copies as many bytes as the input has, the output has room for and `wanted` allows, and returns
/// how many that were.
fn copy(input: &[u8], output: &mut [u8], wanted: u64) -> usize {
    let len = input
        .len()
        .min(output.len())
        .min(usize::try_from(wanted).unwrap_or(usize::MAX));
    output[..len].copy_from_slice(&input[..len]);
    len
}

/// The end of a chunked body without trailer fields.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

const SIZE: Refusal = Refusal::bad_request("a chunk size is not a hexadecimal number");
const SIZE_TOO_LARGE: Refusal = Refusal::bad_request("a chunk size has more than 16 digits");
const EXTENSION: Refusal = Refusal::bad_request("a malformed chunk extension");
// RFC 9112 section 7.1.1 asks for "an appropriate 4xx". Extensions are neither fields (431) nor
// content (413), so it is 400.
const EXTENSIONS_TOO_LONG: Refusal = Refusal::bad_request("too many bytes of chunk extensions");
const LINE_END: Refusal =
    Refusal::bad_request("a line of the chunked coding does not end with CR LF");
const DATA_END: Refusal = Refusal::bad_request("the data of a chunk does not end with CR LF");

#[cfg(test)]
mod tests;
