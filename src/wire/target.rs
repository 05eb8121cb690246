//! Reads what says which resource a request is for: the request target (RFC 9112 section 3.2) and
//! the `Host` field (RFC 9110 section 7.2).

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Method, Uri, Version};

use super::Refusal;
use super::syntax::decimal;

/// Reads a request target. It is in authority form for CONNECT, and else in origin, absolute or
/// asterisk form.
///
/// Letters above ASCII are percent-encoded in the result, which is what their client should have
/// done. All else is handed over as it came.
pub(super) fn parse(method: &Method, target: Bytes) -> Result<Uri, Refusal> {
    let path_and_query = match target[..] {
        _ if method == Method::CONNECT => match has_port(&target) && is_host_and_port(&target) {
            true => &[],
            false => return Err(NO_AUTHORITY),
        },
        [b'/', ..] => &target[..],
        [b'*'] if method == Method::OPTIONS => &[],
        [b'*'] => return Err(ASTERISK),
        _ => path_and_query_of_url(&target)?,
    };
    if !is_path_and_query(path_and_query) {
        return Err(CHARACTERS);
    }
    let target = if path_and_query.is_ascii() {
        target
    } else {
        percent_encoded(&target)
    };
    Uri::from_maybe_shared(target).map_err(|_| TARGET)
}

/// Checks the `Host` field, and replaces it with the target's host if the target has one.
pub(super) fn settle_host(
    version: Version,
    uri: &Uri,
    headers: &mut HeaderMap,
) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(HOST_REPEATED),
        // An empty field would say that the target has no host (RFC 9110 section 7.2), but each
        // http URL has one (section 4.2.1). RFC 9112 section 3.3 allows a default or a refusal.
        (Some(host), None) if !is_host_and_port(host.as_bytes()) => return Err(HOST_INVALID),
        (None, _) if version != Version::HTTP_10 => return Err(HOST_MISSING),
        _ => {}
    }
    // RFC 9112 section 3.2.2: the received field is ignored in this case. A handler that looks at
    // `Host` must not see a name that the request is not for.
    if let Some(authority) = uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| AUTHORITY)?;
        headers.insert(HOST, host);
    }
    Ok(())
}

/// Checks the scheme and the host of a target in absolute form, and returns what follows them.
fn path_and_query_of_url(target: &[u8]) -> Result<&[u8], Refusal> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| strip_prefix_ignore_case(target, scheme.as_bytes()));
    let rest = rest.ok_or(TARGET)?;
    let (authority, path_and_query) = rest.split_at(
        rest.iter()
            .position(|b| b"/?#".contains(b))
            .unwrap_or(rest.len()),
    );
    // An http URL without a host is invalid, and user information in one has to be taken for an
    // error (RFC 9110 section 4.2).
    if !is_host_and_port(authority) {
        return Err(AUTHORITY);
    }
    Ok(path_and_query)
}

fn strip_prefix_ignore_case<'b>(bytes: &'b [u8], prefix: &[u8]) -> Option<&'b [u8]> {
    let (start, rest) = bytes.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Returns whether `bytes` have only the characters of a path and a query.
///
/// A path has the characters of RFC 3986, and six more that browsers send as they are. All others
/// are refused there on purpose: a fragment, which a client must not send; quotes and angle
/// brackets, which all clients encode; a percent sign that encodes nothing, and the backslash, which
/// some readers take for a slash. `http::Uri` would drop the fragment and let some others pass.
///
/// A query has all that browsers leave as it is (the "special-query percent-encode set" of the WHATWG
/// URL standard): a text that a user has typed may come with a lone percent sign. No part of a
/// server chooses a resource by it, so it is for the handler to understand.
///
/// Many clients send letters above ASCII as they are, and all of them as UTF-8.
fn is_path_and_query(bytes: &[u8]) -> bool {
    let query_at = bytes.iter().position(|&byte| byte == b'?');
    let (path, query) = bytes.split_at(query_at.unwrap_or(bytes.len()));
    is_encoded(path, &IN_PATH)
        && query.iter().all(|&byte| IN_QUERY[usize::from(byte)])
        && (bytes.is_ascii() || str::from_utf8(bytes).is_ok())
}

/// Returns `target` with its bytes above ASCII percent-encoded.
#[cold]
fn percent_encoded(target: &[u8]) -> Bytes {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(3 * target.len());
    for &byte in target {
        if byte.is_ascii() {
            encoded.push(byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 0xf));
            encoded.extend([b'%', DIGITS[high], DIGITS[low]]);
        }
    }
    encoded.into()
}

/// Returns whether `value` is a host with an optional port (RFC 3986 section 3.2). The port may be
/// empty after its colon.
fn is_host_and_port(value: &[u8]) -> bool {
    let host_end = match value {
        [b'[', ..] => value
            .iter()
            .position(|&byte| byte == b']')
            .map(|bracket| bracket + 1),
        _ => value.iter().position(|&byte| byte == b':'),
    };
    let (host, port) = value.split_at(host_end.unwrap_or(value.len()));
    is_host(host) && (port.is_empty() || port.strip_prefix(b":").is_some_and(is_port))
}

/// Returns whether `host` is a name, an IPv4 address, which has the same characters, or an IPv6
/// address in brackets.
fn is_host(host: &[u8]) -> bool {
    match host {
        [] => false,
        [b'[', address @ .., b']'] => {
            str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        name => is_encoded(name, &IN_HOST),
    }
}

/// Returns whether an authority ends with a colon and at least one digit. `is_host_and_port` does
/// not require that.
fn has_port(authority: &[u8]) -> bool {
    let digits = authority
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    digits > 0 && authority[..authority.len() - digits].ends_with(b":")
}

fn is_port(digits: &[u8]) -> bool {
    digits.is_empty() || decimal(digits).is_some_and(|port| port <= u64::from(u16::MAX))
}

/// Returns whether `bytes` are allowed characters and percent-encoded ones. The percent sign itself
/// must not be among the allowed.
fn is_encoded(mut bytes: &[u8], allowed: &[bool; 256]) -> bool {
    while let Some(at) = bytes.iter().position(|&byte| !allowed[usize::from(byte)]) {
        bytes = match &bytes[at..] {
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            _ => return false,
        }
    }
    true
}

static IN_HOST: [bool; 256] = unreserved_or_sub_delim_or(b"");
static IN_PATH: [bool; 256] = or_above_ascii(unreserved_or_sub_delim_or(b"/:@[]{}|^"));
static IN_QUERY: [bool; 256] = or_above_ascii(visible_but(b"\"#<>"));

/// Returns a table of the characters `unreserved` and `sub-delims` of RFC 3986, which hosts and
/// paths have in common, and of those in `more`.
const fn unreserved_or_sub_delim_or(more: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~')
            || matches!(
                byte,
                b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
            );
        byte += 1;
    }
    let mut index = 0;
    while index < more.len() {
        table[more[index] as usize] = true;
        index += 1;
    }
    table
}

/// Returns a table of the visible characters of ASCII, without those in `except`.
const fn visible_but(except: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        table[byte as usize] = true;
        byte += 1;
    }
    let mut index = 0;
    while index < except.len() {
        table[except[index] as usize] = false;
        index += 1;
    }
    table
}

const fn or_above_ascii(mut table: [bool; 256]) -> [bool; 256] {
    let mut byte = 128;
    while byte < table.len() {
        table[byte] = true;
        byte += 1;
    }
    table
}

const TARGET: Refusal =
    Refusal::bad_request("the request target is neither a path nor an http URL");
const ASTERISK: Refusal = Refusal::bad_request("the request target * is for OPTIONS alone");
const NO_AUTHORITY: Refusal =
    Refusal::bad_request("the request target of CONNECT is not a host and a port");
const AUTHORITY: Refusal = Refusal::bad_request("the URL in the request line has no valid host");
const CHARACTERS: Refusal =
    Refusal::bad_request("a character in the request target must be percent-encoded");
const HOST_MISSING: Refusal = Refusal::bad_request("no Host field");
const HOST_REPEATED: Refusal = Refusal::bad_request("more than one Host field");
const HOST_INVALID: Refusal =
    Refusal::bad_request("the Host field is not a host with an optional port");
