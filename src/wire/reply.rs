//! Writes the head of a response (RFC 9112 sections 4 and 5), and the responses that the server
//! gives by itself.
//!
//! The fields that concern the connection are the server's: `Date`, the framing and `Connection`
//! are written here, and those of a handler are left out. No memory is allocated except for the
//! output.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, UPGRADE};
use http::{StatusCode, Version};
use httpdate::HttpDate;

use super::framing::Framing;
use super::syntax::decimal;

/// Whether the connection outlives the response, as the `Connection` field says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    /// The connection is kept. The field says `keep-alive` to HTTP/1.0, and is left out otherwise.
    KeepAlive,
    Close,
}

/// What a response's head says, apart from the handler's fields.
#[derive(Debug)]
pub(crate) struct ReplyHead<'a> {
    pub(crate) status: StatusCode,
    pub(crate) request_version: Version,
    pub(crate) framing: Framing,
    /// With [`Framing::UntilClose`] the connection closes whatever this says.
    pub(crate) connection: Connection,
    pub(crate) date: &'a [u8; 29],
    /// The length of the body that is not sent, if it is known. It is for [`Framing::Empty`] after
    /// HEAD and with 304, and says what a GET would get.
    pub(crate) unsent_len: Option<u64>,
    pub(crate) case: FieldCase,
}

/// How the names of a handler's fields are written. The server's own are in title case always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldCase {
    /// As `http` holds them.
    Lower,
    /// The first letter and each after a hyphen in upper case, for clients that do not know that
    /// names have no case (RFC 9110 section 5.1).
    Title,
}

/// Appends a response head.
pub(crate) fn write_head(out: &mut Vec<u8>, head: &ReplyHead<'_>, headers: &HeaderMap) {
    write_status_and_date(out, head.status, head.date);
    match head.framing {
        Framing::Length(len) => write_length(out, len),
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::UntilClose => {}
        Framing::Empty => {
            // RFC 9110 section 8.6 allows no length with 1xx and 204.
            let may_have_length =
                !head.status.is_informational() && head.status != StatusCode::NO_CONTENT;
            if let Some(len) = head.unsent_len.filter(|_| may_have_length) {
                write_length(out, len);
            }
        }
    }
    let names_protocols = matches!(
        head.status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED
    );
    let upgrade = names_protocols && headers.contains_key(UPGRADE);
    write_connection(out, head, upgrade);
    for (name, value) in headers {
        if !is_server_field(name) || (upgrade && name == UPGRADE) {
            write_field(out, name, value.as_bytes(), head.case);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a complete response of the server's own, after which the connection closes. Its body is
/// one line of plain text.
///
/// `with_body` is false for a response to HEAD.
pub(crate) fn write_refusal(
    out: &mut Vec<u8>,
    status: StatusCode,
    reason: &str,
    date: &[u8; 29],
    extra: &[(HeaderName, &str)],
    with_body: bool,
) {
    write_status_and_date(out, status, date);
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
    write_length(out, reason.len() as u64 + 1);
    out.extend_from_slice(b"Connection: close\r\n");
    for (name, value) in extra {
        write_field(out, name, value.as_bytes(), FieldCase::Title);
    }
    out.extend_from_slice(b"\r\n");
    if with_body {
        out.extend_from_slice(reason.as_bytes());
        out.push(b'\n');
    }
}

/// The error for a handler's `Content-Length` that is not a number, or two different ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadLength;

/// Returns the length that a handler has declared, which is compared with the length of its body.
pub(crate) fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, BadLength> {
    let mut declared = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let len = decimal(value.as_bytes()).ok_or(BadLength)?;
        if declared.is_some_and(|other| other != len) {
            return Err(BadLength);
        }
        declared = Some(len);
    }
    Ok(declared)
}

/// Returns the text of a `Date` field. The format has room for the years 1970 to 9999 only: a time
/// outside of them is written as the nearest one inside.
pub(crate) fn http_date(at: SystemTime) -> [u8; 29] {
    const LAST: Duration = Duration::from_secs(253_402_300_799);

    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
    let mut date = [b' '; 29];
    write!(
        &mut date[..],
        "{}",
        HttpDate::from(UNIX_EPOCH + since_epoch)
    )
    .expect("an HTTP date has 29 bytes");
    date
}

/// Returns whether a field is for the server alone to write, or has no place in a response.
///
/// `Trailer` announces fields after the body, which this server never sends. `Upgrade` has a
/// meaning with two statuses only.
fn is_server_field(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "date"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn write_status_and_date(out: &mut Vec<u8>, status: StatusCode, date: &[u8; 29]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    // The space stays when there is no phrase (RFC 9112 section 4).
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(date);
    out.extend_from_slice(b"\r\n");
}

/// Writes the `Connection` field. A response with an `Upgrade` field must also say `upgrade` here
/// (RFC 9110 section 7.8).
fn write_connection(out: &mut Vec<u8>, head: &ReplyHead<'_>, upgrade: bool) {
    let closes = head.connection == Connection::Close || head.framing == Framing::UntilClose;
    let line: &[u8] = match (closes, upgrade) {
        (true, true) => b"Connection: close, upgrade\r\n",
        (true, false) => b"Connection: close\r\n",
        (false, true) if head.request_version == Version::HTTP_10 => {
            b"Connection: keep-alive, upgrade\r\n"
        }
        (false, true) => b"Connection: upgrade\r\n",
        (false, false) if head.request_version == Version::HTTP_10 => b"Connection: keep-alive\r\n",
        (false, false) => b"",
    };
    out.extend_from_slice(line);
}

fn write_length(out: &mut Vec<u8>, len: u64) {
    out.extend_from_slice(b"Content-Length: ");
    write_decimal(out, len);
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8], case: FieldCase) {
    let start = out.len();
    out.extend_from_slice(name.as_str().as_bytes());
    if case == FieldCase::Title {
        let mut begins = true;
        for byte in &mut out[start..] {
            if begins {
                byte.make_ascii_uppercase();
            }
            begins = *byte == b'-';
        }
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number without `core::fmt`, which would cost more than the rest of a small head.
fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// The interim response that asks a client to send the body with which it waits.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[cfg(test)]
mod tests;
