//! Latency estimates: how long handlers take, so that one expected to be slow does not run with a
//! permit.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The average latency above which a handler gives its permit back before it runs.
const SLOW: Duration = Duration::from_micros(50);
/// The longest latency that counts for one call. It lifts a small average by 7/8 of the limit, so
/// one preempted handler decides nothing.
const SAMPLE_MAX_NANOS: u64 = 7 * SLOW_NANOS;
const SLOW_NANOS: u64 = SLOW.as_nanos() as u64;
/// The average above which a route needs room in the slow lane. Seven of the largest samples in a
/// row lift a small average above it.
const VERY_SLOW_NANOS: u64 = 4 * SLOW_NANOS;
/// The average below which a route has forgotten its last slow call.
const SMALL_NANOS: u64 = SLOW_NANOS / 8;

/// Moving averages of how long handlers take, for each route.
///
/// The method and the first segment of the path stand for the route, and select one of a fixed
/// number of averages. Routes that share an average are expected to be as slow as their mean.
#[derive(Debug)]
pub(crate) struct LatencyEstimates {
    averages: [AtomicU64; Self::ROUTES],
    /// The number of calls that have lost their permit and not returned.
    revoked: [AtomicU64; Self::ROUTES],
}

/// The index of a route in [`LatencyEstimates`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RouteKey(u8);

impl LatencyEstimates {
    pub(crate) const ROUTES: usize = 64;

    pub(crate) fn new() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            averages: zeros(),
            revoked: zeros(),
        }
    }

    /// Whether a call of this route has to give its permit back before it runs.
    pub(crate) fn is_slow(&self, route: RouteKey) -> bool {
        self.average(route).load(Relaxed) > SLOW_NANOS || self.is_revoked(route)
    }

    /// Whether a call of this route also needs room in the slow lane, which holds fewer calls than
    /// there are workers. The limit is higher than for [`is_slow`](Self::is_slow): a route that
    /// gets no room is not called any more, and could not show that it is fast.
    pub(crate) fn is_very_slow(&self, route: RouteKey) -> bool {
        self.average(route).load(Relaxed) > VERY_SLOW_NANOS || self.is_revoked(route)
    }

    /// Whether a call of this route is running without a permit because it did not return in time.
    fn is_revoked(&self, route: RouteKey) -> bool {
        self.revoked(route).load(Relaxed) > 0
    }

    /// Records the latency of a call. Nothing is stored for a fast handler once the average is
    /// small, so that no cache line travels between cores.
    pub(crate) fn record(&self, route: RouteKey, took: Duration) {
        let average = self.average(route).load(Relaxed);
        let took = u64::try_from(took.as_nanos())
            .unwrap_or(u64::MAX)
            .min(SAMPLE_MAX_NANOS);
        if average > SMALL_NANOS || took > SLOW_NANOS {
            self.average(route)
                .store(average - average / 8 + took / 8, Relaxed);
        }
    }

    /// Notes that a call of this route has just lost its permit.
    pub(crate) fn revoke(&self, route: RouteKey) {
        self.revoked(route).fetch_add(1, Relaxed);
    }

    /// Notes that a call that had lost its permit has returned.
    pub(crate) fn revoked_call_returned(&self, route: RouteKey) {
        self.revoked(route).fetch_sub(1, Relaxed);
    }

    fn average(&self, route: RouteKey) -> &AtomicU64 {
        &self.averages[usize::from(route.0)]
    }

    fn revoked(&self, route: RouteKey) -> &AtomicU64 {
        &self.revoked[usize::from(route.0)]
    }
}

impl RouteKey {
    /// Returns the key of a method and path: FNV-1a over the method and the first segment, whose
    /// bits are mixed once more because names that differ only in their last character differ only
    /// in the lowest and highest bits before.
    pub(crate) fn of(method: &http::Method, path: &str) -> Self {
        let path = path.as_bytes();
        let end = path
            .iter()
            .skip(1)
            .position(|byte| *byte == b'/')
            .map_or(path.len(), |at| at + 1);
        let bytes = method.as_str().bytes().chain(path[..end].iter().copied());
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        Self(
            ((hash ^ hash >> 15).wrapping_mul(0x85eb_ca6b) >> 26) as u8
                % LatencyEstimates::ROUTES as u8,
        )
    }

    /// Returns the key as a number, for an atomic.
    pub(crate) fn index(self) -> u8 {
        self.0
    }

    pub(crate) fn from_index(index: u8) -> Self {
        Self(index % LatencyEstimates::ROUTES as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_with_similar_names_are_told_apart() {
        let routes: std::collections::BTreeSet<_> = (0..64)
            .map(|i| RouteKey::of(&http::Method::GET, &format!("/route-{i}/x")).index())
            .collect();
        // 64 names at random would take 40 of 64 keys.
        assert!(routes.len() >= 32, "{} keys for 64 names", routes.len());
        assert_eq!(
            RouteKey::of(&http::Method::GET, "/a/b"),
            RouteKey::of(&http::Method::GET, "/a/c?d")
        );
    }

    #[test]
    fn one_slow_call_decides_nothing_and_several_do() {
        let (latency, route) = (LatencyEstimates::new(), RouteKey::default());
        latency.record(route, Duration::from_secs(1));
        assert!(!latency.is_slow(route));
        latency.record(route, Duration::from_secs(1));
        assert!(latency.is_slow(route) && !latency.is_very_slow(route));
        (0..8).for_each(|_| latency.record(route, Duration::from_secs(1)));
        assert!(latency.is_very_slow(route));
        for _ in 0..16 {
            latency.record(route, Duration::from_micros(1));
        }
        assert!(!latency.is_slow(route));
    }

    #[test]
    fn calls_that_do_not_return_make_their_route_slow() {
        let (latency, route) = (LatencyEstimates::new(), RouteKey::default());
        latency.revoke(route);
        assert!(latency.is_slow(route) && latency.is_very_slow(route));
        latency.revoked_call_returned(route);
        assert!(!latency.is_slow(route));
    }
}
