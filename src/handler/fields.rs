//! The header fields in a handler's tuple.

use std::fmt::Display;

use http::header::{LINK, PROXY_AUTHENTICATE, SET_COOKIE, VARY, VIA, WARNING, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Header fields in a tuple that is a response: a `HeaderMap`, or an array of names and values.
///
/// They replace fields of the same name that the response has already, from an inner tuple, except
/// those of which a response may have several: `Set-Cookie`, `Vary`, `Link`, `Via`,
/// `WWW-Authenticate`, `Proxy-Authenticate` and `Warning` are added to them. A name that occurs
/// several times among the fields of one tuple is sent as many times. A value may be a text. If the text
/// is none that a field can hold, one with a line break for example, the response is 500 instead.
pub trait Fields: sealed::Sealed {
    /// Sets the fields, or says why one of them cannot be sent.
    #[doc(hidden)]
    fn add_to(self, headers: &mut HeaderMap) -> Result<(), String>;
}

impl Fields for HeaderMap {
    fn add_to(self, headers: &mut HeaderMap) -> Result<(), String> {
        let mut last = None;
        for (name, value) in self {
            // A name comes once for all its values.
            let is_another = name.is_none();
            let name = name.or_else(|| last.take()).expect("a name comes first");
            add(headers, name.clone(), value, is_another);
            last = Some(name);
        }
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
            let is_another = names[..i].contains(&name);
            add(headers, name, value, is_another);
        }
        Ok(())
    }
}

/// Fields whose values say something each for itself.
const REPEATED: [HeaderName; 7] = [
    SET_COOKIE,
    VARY,
    LINK,
    VIA,
    WWW_AUTHENTICATE,
    PROXY_AUTHENTICATE,
    WARNING,
];

/// Adds a field, in the place of those of the same name unless it is another of them.
fn add(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue, is_another: bool) {
    if is_another || REPEATED.contains(&name) {
        headers.append(name, value);
    } else {
        headers.insert(name, value);
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for http::HeaderMap {}
    impl<V, const N: usize> Sealed for [(http::HeaderName, V); N] {}
}
