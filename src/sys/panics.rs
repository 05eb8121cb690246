//! Catches panics of user code at the call, so that a panic goes no further.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The message of a panic.
#[derive(Debug)]
pub(crate) struct Panic(String);

/// Runs `code` and returns its panic as an error.
///
/// What the code was working on only has to be fit to be closed after a panic: callers do nothing
/// else with it.
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|value| Panic(text_of(value)))
}

/// Returns the message of a panic, and drops the panic's value, which is user code and may panic
/// too.
fn text_of(value: Box<dyn Any + Send>) -> String {
    let text = value
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned());
    let text = text.or_else(|| value.downcast_ref::<String>().cloned());
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // The value of this second panic may panic when it is dropped, as the first one did: it is
        // leaked.
        std::mem::forget(again);
    }
    text.unwrap_or_else(|| "with a value that is not text".to_owned())
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that panics with another one of its kind when it is dropped.
    struct Evil;

    impl Drop for Evil {
        fn drop(&mut self) {
            std::panic::panic_any(Self);
        }
    }

    #[track_caller]
    fn check(code: impl FnOnce(), expected: &str) {
        assert_eq!(catch(code).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_panic_becomes_its_message() {
        check(|| panic!("a text"), "a text");
        check(|| panic!("a text of {}", 2), "a text of 2");
        check(|| std::panic::panic_any(2), "with a value that is not text");
        check(
            || std::panic::panic_any(Evil),
            "with a value that is not text",
        );
        assert_eq!(catch(|| 2).unwrap(), 2);
    }
}
