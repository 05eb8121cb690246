//! Decides whether a connection outlives a message (RFC 9112 section 9.3).

use http::Version;
use http::header::{CONNECTION, HeaderMap};

use super::syntax::members;

/// Whether the connection persists after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persist {
    KeepAlive,
    Close,
}

/// Returns what a message asks for. HTTP/1.1 keeps the connection unless the message says `close`;
/// HTTP/1.0 closes it unless the message says `keep-alive`. If it says both, `close` wins.
pub(crate) fn persist(version: Version, headers: &HeaderMap) -> Persist {
    let mut kept = version != Version::HTTP_10;
    for option in members(headers, &CONNECTION) {
        if option.eq_ignore_ascii_case(b"close") {
            return Persist::Close;
        }
        kept |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    if kept {
        Persist::KeepAlive
    } else {
        Persist::Close
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(version: Version, connection: &[&'static str], expected: Persist) {
        let mut headers = HeaderMap::new();
        for value in connection {
            headers.append(CONNECTION, value.parse().unwrap());
        }
        assert_eq!(
            persist(version, &headers),
            expected,
            "{version:?} {connection:?}"
        );
    }

    #[test]
    fn http_1_1_keeps_the_connection_unless_told_otherwise() {
        check(Version::HTTP_11, &[], Persist::KeepAlive);
        check(
            Version::HTTP_11,
            &["keep-alive", "upgrade"],
            Persist::KeepAlive,
        );
        check(Version::HTTP_11, &["close"], Persist::Close);
    }

    #[test]
    fn http_1_0_closes_the_connection_unless_told_otherwise() {
        check(Version::HTTP_10, &[], Persist::Close);
        check(Version::HTTP_10, &["TE"], Persist::Close);
        check(Version::HTTP_10, &["Keep-Alive"], Persist::KeepAlive);
    }

    #[test]
    fn close_wins_wherever_it_stands() {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            check(version, &["keep-alive, close"], Persist::Close);
            check(version, &["CLOSE,keep-alive"], Persist::Close);
            check(version, &["keep-alive", "TE , Close"], Persist::Close);
        }
    }

    #[test]
    fn only_a_whole_option_counts() {
        check(
            Version::HTTP_11,
            &["close-notify", "not close", "\"close\""],
            Persist::KeepAlive,
        );
        check(Version::HTTP_10, &["keep-alive=1"], Persist::Close);
    }
}
