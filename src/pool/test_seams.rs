//! What the crate's own tests put in place of the pool's parts. Outside tests it is empty.

#[cfg(test)]
use crate::conn::transport::{Socket, Transport};
use crate::sys::test_points::TestPoints;

/// The places where the crate's own tests reach into a pool. A test gives them to the builder.
#[derive(Debug, Clone)]
#[cfg_attr(not(test), derive(Default))]
pub(crate) struct TestSeams {
    /// The points at which a test holds threads, and the errors it has the kernel return.
    pub(crate) test_points: TestPoints,
    /// Makes the transport of each accepted socket.
    #[cfg(test)]
    pub(crate) transport: fn(Socket) -> Box<dyn Transport>,
}

#[cfg(test)]
impl Default for TestSeams {
    fn default() -> Self {
        Self {
            test_points: TestPoints::default(),
            transport: |socket| Box::new(socket),
        }
    }
}
