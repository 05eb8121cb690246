//! Reading a body to its end, up to a limit.

use std::io::{ErrorKind, Read};

use bytes::Bytes;

use crate::conn::body::{Body, Kind};
use crate::conn::body_error::BodyError;
use crate::settings::READ_BYTES;

impl Body {
    /// A good limit for a body that is read to its end, where nothing says otherwise: 1 MiB.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Reads the body to its end, of at most `max` bytes. Blocks until the client has sent it;
    /// nothing is allocated for bytes that were only announced.
    ///
    /// A body that declares a greater length is refused before anything of it is read: a client
    /// that waits for `100 Continue` does not send it.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`], which is a response too: a handler passes it on with `?`.
    ///
    /// # Examples
    ///
    /// ```
    /// use lameduck::body::BodyError;
    /// use lameduck::Body;
    ///
    /// assert_eq!(Body::from("three").into_bytes(5)?, "three");
    /// let too_long = Body::from("three").into_bytes(4);
    /// assert!(matches!(too_long, Err(BodyError::TooLong { max: 4 })));
    /// # Ok::<(), BodyError>(())
    /// ```
    pub fn into_bytes(mut self, max: usize) -> Result<Bytes, BodyError> {
        if self.len().is_some_and(|len| len > max as u64) {
            return Err(BodyError::TooLong { max: max as u64 });
        }
        if let Some(bytes) = self.take_bytes() {
            return Ok(bytes);
        }
        let from_client = matches!(self.kind, Kind::Incoming(_));
        let mut bytes = Vec::new();
        let mut end = 0;
        loop {
            if bytes.len() - end < READ_BYTES / 2 {
                bytes.resize(bytes.len() + READ_BYTES, 0);
            }
            match self.read(&mut bytes[end..]) {
                Ok(0) => break,
                Ok(n) => end += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(BodyError::of(error, from_client)),
            }
            if end > max {
                return Err(BodyError::TooLong { max: max as u64 });
            }
        }
        bytes.truncate(end);
        Ok(bytes.into())
    }

    /// Reads the body to its end, of at most `max` bytes, as UTF-8 text. Blocks as
    /// [`into_bytes`](Self::into_bytes) does.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`]; [`Malformed`](BodyError::Malformed) if the body is not UTF-8.
    ///
    /// # Examples
    ///
    /// ```
    /// use lameduck::body::BodyError;
    /// use lameduck::{Body, Context, IntoResponse, Request, Result};
    ///
    /// fn shout(
    ///     request: Request,
    ///     _context: Context,
    /// ) -> Result<impl IntoResponse, BodyError> {
    ///     let text = request.into_body().into_text(Body::MAX_BYTES)?;
    ///     Ok(text.to_uppercase())
    /// }
    /// # let _ = shout;
    /// ```
    pub fn into_text(self, max: usize) -> Result<String, BodyError> {
        let bytes = self.into_bytes(max)?;
        String::from_utf8(bytes.into())
            .map_err(|error| BodyError::malformed("UTF-8 text", error.utf8_error()))
    }

    /// Reads the body to its end, of at most `max` bytes, as a value in JSON, whatever its
    /// `Content-Type` is. Blocks as [`into_bytes`](Self::into_bytes) does.
    ///
    /// # Errors
    ///
    /// Returns a [`BodyError`]; [`Malformed`](BodyError::Malformed) if the body is not JSON, or not
    /// that of a `T`.
    ///
    /// # Examples
    ///
    /// ```
    /// use lameduck::body::BodyError;
    /// use lameduck::Body;
    ///
    /// let numbers: Vec<u32> = Body::from("[1, 2, 3]").into_json(Body::MAX_BYTES)?;
    /// assert_eq!(numbers, [1, 2, 3]);
    /// # Ok::<(), BodyError>(())
    /// ```
    #[cfg(feature = "json")]
    pub fn into_json<T: serde::de::DeserializeOwned>(self, max: usize) -> Result<T, BodyError> {
        let bytes = self.into_bytes(max)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| BodyError::malformed("JSON as it is expected here", error))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A reader that returns one byte at a time.
    struct Slowly(&'static [u8]);

    impl Read for Slowly {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(1);
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn a_body_is_read_to_its_end_and_not_beyond_its_limit() {
        let slowly = || Body::reader(Slowly(b"12345"));
        assert_eq!(slowly().into_bytes(5).unwrap(), "12345");
        assert!(matches!(
            slowly().into_bytes(4),
            Err(BodyError::TooLong { max: 4 })
        ));
        assert_eq!(Body::empty().into_bytes(0).unwrap(), "");
        let endless = Body::reader(io::repeat(1));
        assert!(matches!(
            endless.into_bytes(100_000),
            Err(BodyError::TooLong { .. })
        ));
        // A body that is known to be too long is not read.
        struct Untouchable;
        impl Read for Untouchable {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("it was read")
            }
        }
        assert!(Body::sized_reader(Untouchable, 11).into_bytes(10).is_err());
    }

    #[test]
    fn text_is_utf_8() {
        assert_eq!(Body::from("grüß").into_text(10).unwrap(), "grüß");
        let error = Body::from(&b"\xff"[..]).into_text(10).unwrap_err();
        assert_eq!(error.to_string(), "the request body is not UTF-8 text");
    }
}
