//! What the crate's own tests replace in a pool. Outside tests there is nothing to replace.

#[cfg(test)]
use crate::conn::transport::{Socket, Transport};
use crate::sys::test_points::TestPoints;

/// What a test gives to the builder: points at which to hold threads, and a transport for its
/// sockets.
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
