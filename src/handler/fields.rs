//! The header fields in a handler's tuple.

use std::fmt::Display;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Header fields in a tuple that is a response: a `HeaderMap`, or an array of names and values.
///
/// They replace fields of the same name that the response has already. A name that occurs several
/// times among them, as `Set-Cookie` may, is sent as many times. A value may be a text. If the text
/// is none that a field can hold, one with a line break for example, the response is 500 instead.
pub trait Fields: sealed::Sealed {
    /// Sets the fields, or says why one of them cannot be sent.
    #[doc(hidden)]
    fn add_to(self, headers: &mut HeaderMap) -> Result<(), String>;
}

impl Fields for HeaderMap {
    fn add_to(self, headers: &mut HeaderMap) -> Result<(), String> {
        headers.extend(self);
        Ok(())
    }
}

impl<V, const N: usize> Fields for [(HeaderName, V); N]
where
    V: TryInto<HeaderValue>,
    V::Error: Display,
{
    fn add_to(self, headers: &mut HeaderMap) -> Result<(), String> {
        let names: [HeaderName; N] = std::array::from_fn(|i| self[i].0.clone());
        for (i, (name, value)) in self.into_iter().enumerate() {
            let value = value
                .try_into()
                .map_err(|error| format!("a value of the field {name} cannot be sent: {error}"))?;
            if names[..i].contains(&name) {
                headers.append(name, value);
            } else {
                headers.insert(name, value);
            }
        }
        Ok(())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for http::HeaderMap {}
    impl<V, const N: usize> Sealed for [(http::HeaderName, V); N] {}
}
