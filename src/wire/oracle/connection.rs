//! The properties of all messages on a connection.

use super::body::decode_into;
use super::{ends, summary};
use crate::settings::Limits;
use crate::wire::Refusal;
use crate::wire::chunked::Decoder;
use crate::wire::head::HeadScan;
use crate::wire::persist::Persist;

/// Checks that the messages on a connection are the same however its bytes arrive: no byte moves
/// from one message to another.
pub(crate) fn connection(bytes: &[u8], pieces: &[usize], limits: &Limits) {
    let text = bytes.escape_ascii();
    let whole = messages(bytes, &[bytes.len().max(1)], limits);
    assert_eq!(
        messages(bytes, pieces, limits),
        whole,
        "in pieces of {pieces:?}: {text}"
    );
    let (mut found, mut rest) = (Vec::new(), bytes);
    // Each message is the same when it is alone, with nothing after it.
    for (message, len) in &whole.messages {
        let alone = messages(&rest[..*len], &[*len], limits);
        assert_eq!(
            (&alone.messages[..], alone.end),
            (&[(message.clone(), *len)][..], alone_end(&whole, &found)),
            "{text}"
        );
        found.push(*len);
        rest = &rest[*len..];
    }
    assert_eq!(
        found.iter().sum::<usize>() + whole.rest,
        bytes.len(),
        "consumed and rest are the input: {text}"
    );
}

/// What was read from the bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Messages {
    /// Each message, with the number of bytes that it took.
    messages: Vec<(String, usize)>,
    end: End,
    /// The number of bytes at the end that belong to no complete message.
    rest: usize,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    /// Another message may follow.
    Open,
    Closed,
    Refused(Refusal),
}

/// Reads one message after the other, as `conn/` does.
fn messages(bytes: &[u8], pieces: &[usize], limits: &Limits) -> Messages {
    let mut found = Messages {
        messages: Vec::new(),
        end: End::Open,
        rest: 0,
    };
    let (mut begun, mut consumed) = (0, 0);
    let mut scan = HeadScan::new();
    let mut body = None;
    'arrivals: for arrived in ends(bytes, pieces) {
        loop {
            let parsed = match &mut body {
                None => scan
                    .parse(&bytes[consumed..arrived], limits)
                    .map(|head| match head {
                        None => false,
                        Some(head) => {
                            consumed += head.len;
                            body = Some((Decoder::new(head.framing, limits), Vec::new(), head));
                            true
                        }
                    }),
                Some((decoder, content, _)) => {
                    let rooms = &mut std::iter::repeat(512);
                    decode_into(decoder, &bytes[consumed..arrived], rooms, content, limits).map(
                        |n| {
                            consumed += n;
                            decoder.is_done()
                        },
                    )
                }
            };
            match parsed {
                Ok(true) => {}
                Ok(false) => break,
                Err(refusal) => {
                    found.end = End::Refused(refusal);
                    break 'arrivals;
                }
            }
            let Some((mut decoder, content, head)) =
                body.take_if(|(decoder, ..)| decoder.is_done())
            else {
                continue;
            };
            let (trailers, persist) = (decoder.take_trailers(), head.persist);
            let content = content.escape_ascii();
            found.messages.push((
                format!("{} {content} {trailers:?}", summary(&Ok(Some(head)))),
                consumed - begun,
            ));
            begun = consumed;
            scan = HeadScan::new();
            if persist == Persist::Close {
                found.end = End::Closed;
                break 'arrivals;
            }
        }
    }
    found.rest = bytes.len() - begun;
    found
}

/// Returns how the message after `found` ends when it is alone. If the connection is closed after
/// the last message, that message says so itself.
fn alone_end(whole: &Messages, found: &[usize]) -> End {
    let is_last = found.len() + 1 == whole.messages.len();
    if is_last && whole.end == End::Closed {
        End::Closed
    } else {
        End::Open
    }
}
