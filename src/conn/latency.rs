//! Latency estimates: how long handlers take, so that one expected to be slow does not run with a
//! permit.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
/// The least average of a route whose call has lost its permit: that call was certainly slow, so the
/// next one gives its permit back beforehand. Five fast calls undo it.
const REVOKED_NANOS: u64 = 2 * SLOW_NANOS;
/// The average below which a route is forgotten.
const SMALL_NANOS: u64 = SLOW_NANOS / 8;

/// Moving averages of how long handlers take, for each route that has been slow of late.
///
/// A route that is not here is expected to be fast, so a server whose handlers are all fast keeps
/// nothing and looks nothing up. A route is forgotten when its average is small again. What is kept
/// is bounded: a further route takes the place of the one with the smallest average in its set, and
/// the others of the set age with each such replacement. Two routes never share an average.
#[derive(Debug)]
pub(crate) struct LatencyEstimates {
    sets: Box<[[Estimate; Self::WAYS]]>,
    /// The number of routes that are known. It is written under the lock.
    known: AtomicUsize,
    /// Held to add or forget a route, and to count its revoked calls.
    changes: Mutex<()>,
}

/// What is known of one route.
#[derive(Debug, Default)]
struct Estimate {
    /// The route's key. Zero: this place is free.
    route: AtomicU64,
    average: AtomicU64,
    /// The number of calls that have lost their permit and not returned.
    revoked: AtomicU64,
}

/// A route in [`LatencyEstimates`]: the one that the router has found, or else a hash of the method
/// and the path without what looks like an identifier in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteKey(u64);

/// How long a call is expected to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Expected {
    Fast,
    /// The call has to give its permit back before it runs.
    Slow,
    /// The call also needs room in the slow lane, which holds fewer calls than there are workers.
    /// It takes more to get here: a route that gets no room is not called any more, and could not
    /// show that it is fast.
    VerySlow,
}

impl LatencyEstimates {
    const SETS: usize = 256;
    const WAYS: usize = 4;

    pub(crate) fn new() -> Self {
        Self {
            sets: (0..Self::SETS).map(|_| Default::default()).collect(),
            known: AtomicUsize::new(0),
            changes: Mutex::default(),
        }
    }

    /// Whether every route is expected to be fast, so that no caller needs to know its route.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.load(Relaxed) == 0
    }

    /// Whether a call that has taken so long is worth recording although its route is not known to
    /// be slow.
    pub(crate) fn is_news(took: Duration) -> bool {
        took > SLOW
    }

    /// Returns how long a call of this route is expected to take.
    pub(crate) fn expected(&self, route: RouteKey) -> Expected {
        match self.find(route) {
            None => Expected::Fast,
            Some(known) => {
                let average = known.average.load(Relaxed);
                if average > VERY_SLOW_NANOS || known.revoked.load(Relaxed) > 0 {
                    Expected::VerySlow
                } else if average > SLOW_NANOS {
                    Expected::Slow
                } else {
                    Expected::Fast
                }
            }
        }
    }

    /// Records the latency of a call. Nothing is stored for a fast call of a route that is not known
    /// to be slow, so that no cache line travels between cores.
    pub(crate) fn record(&self, route: RouteKey, took: Duration) {
        let sample = u64::try_from(took.as_nanos())
            .unwrap_or(u64::MAX)
            .min(SAMPLE_MAX_NANOS);
        if let Some(known) = self.find(route) {
            let average = known.average.load(Relaxed);
            let average = average - average / 8 + sample / 8;
            known.average.store(average, Relaxed);
            if average < SMALL_NANOS {
                self.forget(route);
            }
        } else if Self::is_news(took) {
            let changes = self.lock();
            if let Some(new) = self.find_or_add(route, &changes) {
                new.average.fetch_add(sample / 8, Relaxed);
            }
        }
    }

    /// Notes that a call of this route has just lost its permit.
    pub(crate) fn revoke(&self, route: RouteKey) {
        let changes = self.lock();
        if let Some(known) = self.find_or_add(route, &changes) {
            known.revoked.fetch_add(1, Relaxed);
        }
    }

    /// Undoes [`revoke`](Self::revoke) for a call that has kept its permit after all.
    pub(crate) fn was_not_revoked(&self, route: RouteKey) {
        let _changes = self.lock();
        if let Some(known) = self.find(route) {
            let less = |revoked: u64| Some(revoked.saturating_sub(1));
            let _ = known.revoked.fetch_update(Relaxed, Relaxed, less);
        }
    }

    /// Notes that a call that had lost its permit has returned.
    pub(crate) fn revoked_call_returned(&self, route: RouteKey) {
        self.was_not_revoked(route);
        if let Some(known) = self.find(route) {
            known.average.fetch_max(REVOKED_NANOS, Relaxed);
        }
    }

    fn set(&self, route: RouteKey) -> &[Estimate; Self::WAYS] {
        &self.sets[(route.0 >> 32) as usize % Self::SETS]
    }

    fn find(&self, route: RouteKey) -> Option<&Estimate> {
        self.set(route)
            .iter()
            .find(|estimate| route != RouteKey::NONE && estimate.route.load(Relaxed) == route.0)
    }

    /// Returns the place of a route, which may be a new one. `None`: each place of its set belongs to
    /// a route with a call that does not return.
    fn find_or_add(&self, route: RouteKey, _changes: &MutexGuard<'_, ()>) -> Option<&Estimate> {
        if let Some(known) = self.find(route) {
            return Some(known);
        }
        if route == RouteKey::NONE {
            return None;
        }
        let set = self.set(route);
        let free = set.iter().find(|place| place.route.load(Relaxed) == 0);
        let place = free.or_else(|| {
            let least = set
                .iter()
                .filter(|place| place.revoked.load(Relaxed) == 0)
                .min_by_key(|place| place.average.load(Relaxed))?;
            // A route that is not called any more would keep its place for ever.
            for place in set {
                let average = place.average.load(Relaxed);
                place.average.store(average - average / 8, Relaxed);
            }
            Some(least)
        })?;
        if place.route.load(Relaxed) == 0 {
            self.known.fetch_add(1, Relaxed);
        }
        place.average.store(0, Relaxed);
        place.route.store(route.0, Relaxed);
        Some(place)
    }

    fn forget(&self, route: RouteKey) {
        let _changes = self.lock();
        if let Some(known) = self.find(route)
            && known.revoked.load(Relaxed) == 0
            && known.average.load(Relaxed) < SMALL_NANOS
        {
            known.route.store(0, Relaxed);
            self.known.fetch_sub(1, Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RouteKey {
    /// The key of no route, of which nothing is known or learnt.
    pub(crate) const NONE: Self = Self(0);

    /// Returns the key of a route that the router has found, by a number of its own.
    pub(crate) fn of_id(method: &http::Method, id: u64) -> Self {
        Self::from_hash(id.to_ne_bytes().into_iter().fold(of_method(method), fnv))
    }

    /// Returns the key of a request that no router knows: of its method and path, in which a segment
    /// after the first that looks like an identifier counts as any other such segment.
    pub(crate) fn of_path(method: &http::Method, path: &str) -> Self {
        let mut hash = of_method(method);
        for (i, segment) in path.split('/').enumerate() {
            hash = fnv(hash, b'/');
            // What comes before the first slash is empty, and the segment after it is seldom an
            // identifier.
            hash = if i > 1 && is_identifier(segment.as_bytes()) {
                fnv(hash, b'*')
            } else {
                segment.bytes().fold(hash, fnv)
            };
        }
        Self::from_hash(hash)
    }

    /// Returns the key of the bodies of this route's responses.
    pub(crate) fn of_body(self) -> Self {
        Self::from_hash(fnv(self.0, b'b'))
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Mixes the bits once more, because names that differ only in their last character differ only
    /// in the lowest bits before. Zero stands for no route.
    fn from_hash(hash: u64) -> Self {
        let mixed = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        Self((mixed ^ mixed >> 33).max(1))
    }
}

fn of_method(method: &http::Method) -> u64 {
    method.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, fnv)
}

/// A step of FNV-1a.
fn fnv(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// Whether a segment of a path is a number, or looks like a UUID or a hash.
fn is_identifier(segment: &[u8]) -> bool {
    let digits = segment.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_hex = |byte: &u8| byte.is_ascii_hexdigit() || *byte == b'-';
    digits > 0 && (digits == segment.len() || segment.len() >= 8 && segment.iter().all(is_hex))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    const LONG: Duration = Duration::from_secs(1);

    fn route(path: &str) -> RouteKey {
        RouteKey::of_path(&Method::GET, path)
    }

    #[test]
    fn each_path_is_a_route_but_for_the_identifiers_in_it() {
        assert_ne!(route("/api/poll"), route("/api/health"));
        assert_ne!(route("/v1/users"), route("/v2/users"));
        assert_ne!(route("/a"), RouteKey::of_path(&Method::POST, "/a"));
        assert_eq!(route("/users/7/posts"), route("/users/12345/posts"));
        assert_ne!(route("/users/7/posts"), route("/users/7/likes"));
        assert_eq!(
            route("/jobs/6e8bc430-9c3a-11d9-9669-0800200c9a66"),
            route("/jobs/00000000-0000-4000-8000-000000000000")
        );
        assert_ne!(route("/0/a"), route("/1/a"), "the first segment counts");
        assert_ne!(
            route("/a/deadbeef"),
            route("/a/facade"),
            "a word has no digits"
        );
    }

    #[test]
    fn one_slow_call_decides_nothing_and_several_do() {
        let (latency, route) = (LatencyEstimates::new(), route("/a"));
        latency.record(route, LONG);
        assert_eq!(latency.expected(route), Expected::Fast);
        latency.record(route, LONG);
        assert_eq!(latency.expected(route), Expected::Slow);
        (0..8).for_each(|_| latency.record(route, LONG));
        assert_eq!(latency.expected(route), Expected::VerySlow);
        for _ in 0..16 {
            latency.record(route, Duration::from_micros(1));
        }
        assert_eq!(latency.expected(route), Expected::Fast);
    }

    #[test]
    fn a_route_that_is_fast_again_is_forgotten() {
        let (latency, route) = (LatencyEstimates::new(), route("/a"));
        latency.record(route, Duration::from_micros(1));
        assert!(latency.is_empty(), "a fast call is not kept");
        latency.record(route, LONG);
        assert!(!latency.is_empty());
        for _ in 0..32 {
            latency.record(route, Duration::from_micros(1));
        }
        assert!(latency.is_empty());
    }

    #[test]
    fn a_call_that_does_not_return_makes_its_route_slow_and_so_is_the_next_one() {
        let (latency, route) = (LatencyEstimates::new(), route("/a"));
        latency.revoke(route);
        assert_eq!(latency.expected(route), Expected::VerySlow);
        latency.revoked_call_returned(route);
        assert_eq!(latency.expected(route), Expected::Slow);
        latency.revoke(route);
        latency.was_not_revoked(route);
        (0..8).for_each(|_| latency.record(route, Duration::from_micros(1)));
        assert_eq!(latency.expected(route), Expected::Fast);
    }

    #[test]
    fn ten_thousand_slow_routes_take_no_more_places_than_there_are_and_no_two_share_one() {
        let latency = LatencyEstimates::new();
        let hung = route("/hung");
        latency.revoke(hung);
        for i in 0..10_000 {
            let route = route(&format!("/slow-{i}"));
            (0..10).for_each(|_| latency.record(route, LONG));
            let unknown = self::route(&format!("/fast-{i}"));
            assert_eq!(latency.expected(unknown), Expected::Fast);
        }
        let places = LatencyEstimates::SETS * LatencyEstimates::WAYS;
        assert!(latency.known.load(Relaxed) <= places);
        assert_eq!(
            latency.expected(route("/slow-9999")),
            Expected::VerySlow,
            "the newest is there"
        );
        assert_eq!(
            latency.expected(hung),
            Expected::VerySlow,
            "a call that has not returned keeps its place"
        );
    }
}
