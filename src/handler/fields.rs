//! Header fields that a handler returns beside its response.

use std::fmt::Display;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Header fields beside what a handler returns: a [`HeaderMap`], or an array of names and values.
///
/// They replace fields of the same name; one that comes several times among them, as `Set-Cookie`
/// may, is sent as often. Values may be texts, which must be ones that a field can hold: with a
/// line break in one the response is 500 instead.
pub trait Fields: sealed::Sealed {
    /// Sets them, or says why one cannot be.
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
