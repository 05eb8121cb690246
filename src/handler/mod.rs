//! What a handler is, what it returns, and what is made of several.

pub(crate) mod layer;
pub(crate) mod respond;
#[cfg(feature = "router")]
pub(crate) mod router;
