//! The receive buffer: bytes that came from the peer and are not used yet.
//!
//! The thread that serves the connection lends the buffer, so that ten thousand parked connections
//! hold none. A connection that is parked with bytes in it keeps just those.
//!
//! **Invariant:** `start <= end <= bytes.len()`.

use std::mem;

/// The bytes that a connection has received and not used.
#[derive(Debug, Default)]
pub(crate) struct ReceiveBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReceiveBuffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the first `n` bytes, which are used.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end, "more was used than there was");
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Returns room for the next read: in the lent buffer if this is the first read, in a larger
    /// one if the buffer is full.
    pub(crate) fn room(&mut self, spare: &mut Vec<u8>) -> &mut [u8] {
        if self.bytes.len() < spare.len() {
            // Our buffer holds the bytes that were left when the connection was parked. Later bytes
            // go after them in the lent buffer.
            let n = self.len();
            spare[..n].copy_from_slice(&self.bytes[self.start..self.end]);
            self.bytes = mem::take(spare);
            (self.start, self.end) = (0, n);
        }
        if self.end == self.bytes.len() {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else {
                self.bytes
                    .resize((self.bytes.len() * 2).max(crate::settings::READ_BYTES), 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// Notes that `n` bytes were read into the room.
    pub(crate) fn filled(&mut self, n: usize) {
        self.end += n;
    }

    /// Gives the buffer back before the connection is parked.
    pub(crate) fn release(&mut self, spare: &mut Vec<u8>) {
        if self.bytes.is_empty() {
            return;
        }
        let left = self.bytes().to_vec();
        (self.start, self.end) = (0, left.len());
        let lent = mem::replace(&mut self.bytes, left);
        if spare.len() < lent.len() && lent.len() == crate::settings::READ_BYTES {
            *spare = lent;
        }
    }

    /// Takes all bytes out.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let bytes = self.bytes().to_vec();
        self.consume(bytes.len());
        bytes
    }

    /// Puts back bytes that a request body's reader has received and not used. The buffer has to be
    /// empty.
    pub(crate) fn restore(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.is_empty(), "bytes come back before new ones are read");
        (self.start, self.end) = (0, bytes.len());
        self.bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_parking_and_a_buffer_that_is_too_small() {
        let mut spare = vec![0; crate::settings::READ_BYTES];
        let mut recv_buf = ReceiveBuffer::default();
        let mut sent = Vec::new();
        for round in 0..40_u8 {
            let room = recv_buf.room(&mut spare);
            let n = room.len().min(700);
            room[..n].fill(round);
            recv_buf.filled(n);
            sent.extend(std::iter::repeat_n(round, n));
            if round % 3 == 0 {
                recv_buf.release(&mut spare);
                assert_eq!(
                    spare.len(),
                    crate::settings::READ_BYTES,
                    "the lent buffer comes back"
                );
            }
            if round % 5 == 0 {
                assert_eq!(recv_buf.bytes()[..100], sent[..100]);
                recv_buf.consume(100);
                sent.drain(..100);
            }
            assert_eq!(recv_buf.bytes(), sent);
        }
        assert!(
            recv_buf.len() > crate::settings::READ_BYTES,
            "it grew beyond one buffer"
        );
    }
}
