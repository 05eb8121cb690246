//! Finds the requests among bytes that no handler will see, so that a report can name each of them.

use crate::conn::receive_buffer::ReceiveBuffer;
use crate::settings::Limits;
use crate::wire::chunked::Decoder;
use crate::wire::framing::Framing;
use crate::wire::head::{Head, HeadScan};

/// A position in a stream of pipelined requests.
#[derive(Debug)]
pub(crate) enum RequestScan {
    /// A head comes next.
    Head(HeadScan),
    /// The body of the last request comes next, and is skipped.
    Body(Decoder),
    /// What follows cannot be told from anything else.
    Lost,
}

impl RequestScan {
    pub(crate) fn new() -> Self {
        Self::Head(HeadScan::new())
    }

    /// Takes the next request's head out of `received`, and what comes before it. `None`: its bytes
    /// are not all here.
    pub(crate) fn next_head(
        &mut self,
        received: &mut ReceiveBuffer,
        limits: &Limits,
    ) -> Option<Head> {
        loop {
            match self {
                Self::Head(scan) => match scan.parse(received.bytes(), limits) {
                    Ok(Some(head)) => {
                        received.consume(head.len);
                        *self = Self::after(&head, limits);
                        return Some(head);
                    }
                    Ok(None) => return None,
                    Err(_) => *self = Self::Lost,
                },
                Self::Body(decoder) if decoder.is_done() => *self = Self::new(),
                Self::Body(decoder) => match decoder.decode(received.bytes(), &mut [0; 1024]) {
                    Ok(decoded) if decoded.consumed > 0 => received.consume(decoded.consumed),
                    Ok(_) => return None,
                    Err(_) => *self = Self::Lost,
                },
                Self::Lost => return None,
            }
        }
    }

    /// Whether no further request will be found.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost)
    }

    fn after(head: &Head, limits: &Limits) -> Self {
        match head.framing {
            Framing::Empty => Self::new(),
            // The client may send this body, or leave it out because nobody asked for it.
            _ if head.expect_continue => Self::Lost,
            framing => Self::Body(Decoder::new(framing, limits)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: &[&str]) {
        // However the bytes are cut.
        for at in 0..=bytes.len() {
            let (mut received, mut spare) = (ReceiveBuffer::default(), vec![0; 16 << 10]);
            let (mut scan, mut found) = (RequestScan::new(), Vec::new());
            for piece in [&bytes[..at], &bytes[at..]] {
                received.room(&mut spare)[..piece.len()].copy_from_slice(piece);
                received.filled(piece.len());
                while let Some(head) = scan.next_head(&mut received, &Limits::default()) {
                    found.push(head.parts.uri.to_string());
                }
            }
            assert_eq!(found, expected, "cut at {at}");
        }
    }

    #[test]
    fn requests_after_bodies_are_found() {
        check(
            b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n\
              POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /\
              POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
              GET /d HTTP/1.1\r\nHost: a\r\n\r\nGET /half HTTP/1.1\r\n",
            &["/a", "/b", "/c", "/d"],
        );
    }

    #[test]
    fn nothing_is_found_after_what_cannot_be_told_apart() {
        check(
            b"POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n\
              GET /b HTTP/1.1\r\nHost: a\r\n\r\n",
            &["/a"],
        );
        check(
            b"no request at all\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
            &[],
        );
    }
}
