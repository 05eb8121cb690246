//! Panics of user code, caught where they happen, so that nothing of them gets any further.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a panic said.
#[derive(Debug)]
pub(crate) struct Panic(String);

/// Runs code that may panic. What it leaves behind then must be fit to be closed, and no more.
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|value| Panic(text_of(value)))
}

/// The text a panic came with, which is user code's to drop too.
fn text_of(value: Box<dyn Any + Send>) -> String {
    let text = value
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned());
    let text = text.or_else(|| value.downcast_ref::<String>().cloned());
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // Whoever panics with a value that panics when it is dropped may do so with another one.
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

    /// Panics with another one of its kind when it is dropped.
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
    fn a_panic_is_what_it_said() {
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
