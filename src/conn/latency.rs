//! How long handlers take, so that one expected to be slow does not run with a permit.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A handler that takes longer than this on average gives its permit back before it runs.
const SLOW: Duration = Duration::from_micros(50);
/// No sample counts for more: it lifts a small average by 7/8 of the limit, so one preempted
/// handler decides nothing.
const SAMPLE_MAX_NANOS: u64 = 7 * SLOW_NANOS;
const SLOW_NANOS: u64 = SLOW.as_nanos() as u64;
/// Seven of the largest samples on end lift a small average above this.
const VERY_SLOW_NANOS: u64 = 4 * SLOW_NANOS;
/// An average down here has forgotten the last slow call.
const SMALL_NANOS: u64 = SLOW_NANOS / 8;

/// Moving average of how long handlers take, for each route.
///
/// Without a router the method and the first segment of the path stand for the route, in one of a
/// fixed number of places; routes that share one are only expected to be as slow as their mean.
#[derive(Debug)]
pub(crate) struct LatencyEstimates {
    averages: [AtomicU64; Self::ROUTES],
    /// Calls that have lost their permit and not returned.
    revoked: [AtomicU64; Self::ROUTES],
}

/// A route's place in [`LatencyEstimates`].
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

    /// Whether a call of this route is to give its permit back before it runs.
    pub(crate) fn is_slow(&self, route: RouteKey) -> bool {
        self.average(route).load(Relaxed) > SLOW_NANOS || self.is_revoked(route)
    }

    /// Whether it also needs a place among the slow, of which there are fewer than workers. That
    /// takes more: a route for which none comes free is not called any more, and could not show
    /// that it is fast.
    pub(crate) fn is_very_slow(&self, route: RouteKey) -> bool {
        self.average(route).load(Relaxed) > VERY_SLOW_NANOS || self.is_revoked(route)
    }

    /// Whether a call of this route is running without a permit because it did not return in time.
    fn is_revoked(&self, route: RouteKey) -> bool {
        self.revoked(route).load(Relaxed) > 0
    }

    /// Nothing is stored for a fast handler once the average is small: no cache line travels
    /// between cores.
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

    /// A call of this route has just lost its permit.
    pub(crate) fn revoke(&self, route: RouteKey) {
        self.revoked(route).fetch_add(1, Relaxed);
    }

    /// It has returned.
    pub(crate) fn come_back(&self, route: RouteKey) {
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
    /// FNV-1a over the method and the first segment of the path, with its bits mixed once more:
    /// names that differ in their last character only differ in the lowest and highest bits before.
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

    /// For a place where only a number fits.
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
        // 64 names in 64 places at random would take 40.
        assert!(routes.len() >= 32, "{} places for 64 names", routes.len());
        assert_eq!(
            RouteKey::of(&http::Method::GET, "/a/b"),
            RouteKey::of(&http::Method::GET, "/a/c?d")
        );
    }

    #[test]
    fn one_slow_call_decides_nothing_and_several_do() {
        let (pace, route) = (LatencyEstimates::new(), RouteKey::default());
        pace.record(route, Duration::from_secs(1));
        assert!(!pace.is_slow(route));
        pace.record(route, Duration::from_secs(1));
        assert!(pace.is_slow(route) && !pace.is_very_slow(route));
        (0..8).for_each(|_| pace.record(route, Duration::from_secs(1)));
        assert!(pace.is_very_slow(route));
        for _ in 0..16 {
            pace.record(route, Duration::from_micros(1));
        }
        assert!(!pace.is_slow(route));
    }

    #[test]
    fn calls_that_do_not_return_make_their_route_slow() {
        let (pace, route) = (LatencyEstimates::new(), RouteKey::default());
        pace.revoke(route);
        assert!(pace.is_slow(route) && pace.is_very_slow(route));
        pace.come_back(route);
        assert!(!pace.is_slow(route));
    }
}
