//! The router: a handler that chooses another one by path and method.

mod path;
mod route;

use std::fmt;
use std::sync::Arc;

use http::{Method, StatusCode};

use crate::conn::message::{Request, Response};
use crate::handler::Handler;
use crate::handler::failure::explain;
use crate::handler::into_response::IntoResponse;
use crate::handler::layer::{Layer, Next};
use crate::lifecycle::context::Context;

pub use route::Route;

/// A [`Handler`] that chooses the handler for each request by its path and method.
///
/// # Paths
///
/// | path of a route | matches | [`Context::param`] |
/// |---|---|---|
/// | `/users` | `/users` | |
/// | `/users/{id}` | `/users/7`, not `/users/` | `id`: `7` |
/// | `/images/{name}.png` | `/images/duck.png` | `name`: `duck` |
/// | `/files/{*rest}` | `/files/a/b`, not `/files/` | `rest`: `a/b` |
/// | `/{{id}}` | `/{id}` | |
///
/// A literal part takes precedence over a parameter, in whatever order the routes were added. A
/// parameter is at least one byte long and ends at the next slash, except for `{*rest}`. Its value
/// is percent-decoded after the route was found, so `%2F` in it becomes a slash that separates
/// nothing. A value that is not UTF-8 is answered with 400. Literal parts are compared without
/// decoding.
///
/// A slash at the end counts: `/users` and `/users/` are two paths, and neither is redirected to
/// the other.
///
/// # Methods
///
/// HEAD goes to the route's handler for HEAD, or else to the one for GET, and the server leaves out
/// the body. OPTIONS without a handler is answered with 204 and `Allow`, also for `*`, which means
/// the server itself. A method that has no handler at a path is answered with 405 and `Allow`. A
/// path that no route matches is answered by the [`fallback`](Self::fallback), or with 404.
///
/// # Cost
///
/// The router allocates nothing for a request to a route that has no parameters and is not in a
/// nested router.
///
/// # Examples
///
/// ```
/// use lameduck::http::{Request, StatusCode};
/// use lameduck::{Context, Handler, Response, Router, layers};
///
/// fn hello(_request: lameduck::Request, context: Context) -> String {
///     format!("hello {}\n", context.param("name").unwrap_or("world"))
/// }
///
/// let api = Router::new()
///     .put("/stock/{item}", |_request, _context| StatusCode::NO_CONTENT)
///     .layer(layers::body_limit(1 << 10));
/// let app = Router::new()
///     .get("/hello", hello)
///     .get("/hello/{name}", hello)
///     .nest("/api", api)
///     .layer(layers::access_log());
///
/// let ask = |method: &str, path: &str| -> Response {
///     let request = Request::builder().method(method).uri(path);
///     app.handle(request.body("".into()).unwrap(), Context::root())
/// };
/// let hello = ask("GET", "/hello/J%C3%B6rg");
/// assert_eq!(hello.into_body().into_text(100)?, "hello Jörg\n");
/// assert_eq!(ask("PUT", "/api/stock/7").status(), 204);
/// assert_eq!(ask("PUT", "/hello").headers()["allow"], "GET, HEAD, OPTIONS");
/// assert_eq!(ask("GET", "/goodbye").status(), 404);
/// # Ok::<(), lameduck::body::BodyError>(())
/// ```
#[derive(Default)]
#[must_use]
pub struct Router {
    /// Which of `entries` a path leads to.
    paths: matchit::Router<Place>,
    entries: Vec<Entry>,
    fallback: Option<Box<dyn Handler>>,
    layers: Vec<Arc<dyn Layer>>,
}

#[derive(Clone, Copy)]
struct Place {
    entry: usize,
    /// Whether the last parameter is the part of the path that a nested router sees.
    is_below: bool,
}

/// A path, as it was given, and what answers there.
struct Entry {
    path: String,
    target: Target,
}

enum Target {
    Route(Route),
    /// A router for everything below the path.
    Nested(Router),
}

/// What a request is answered with.
enum Found<'a> {
    Route(&'a Route),
    /// A nested router, and the path as that router sees it.
    Nested(&'a Router, String),
    /// The methods of all routes, for `OPTIONS *`.
    Everything,
    /// 400: a parameter cannot be decoded.
    Unreadable,
    Nothing,
}

/// The parameter that stands for the path below a nested router's. Handlers do not see it.
const BELOW: &str = "/{*below}";

/// How a router is built.
///
/// The paths are the program's own, so a mistake in one is a panic with the caller's location, and
/// it happens while the router is built, not when a request comes.
impl Router {
    /// Returns a router without routes, which answers everything with 404.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `handler` answer GET at `path`, and HEAD unless that has a handler of its own.
    ///
    /// # Panics
    ///
    /// In the cases in which [`method`](Self::method) does. This holds for the methods below, too.
    #[track_caller]
    pub fn get(self, path: &str, handler: impl Handler) -> Self {
        self.method(Method::GET, path, handler)
    }

    /// Has `handler` answer POST at `path`.
    #[track_caller]
    pub fn post(self, path: &str, handler: impl Handler) -> Self {
        self.method(Method::POST, path, handler)
    }

    /// Has `handler` answer PUT at `path`.
    #[track_caller]
    pub fn put(self, path: &str, handler: impl Handler) -> Self {
        self.method(Method::PUT, path, handler)
    }

    /// Has `handler` answer DELETE at `path`.
    #[track_caller]
    pub fn delete(self, path: &str, handler: impl Handler) -> Self {
        self.method(Method::DELETE, path, handler)
    }

    /// Has `handler` answer PATCH at `path`.
    #[track_caller]
    pub fn patch(self, path: &str, handler: impl Handler) -> Self {
        self.method(Method::PATCH, path, handler)
    }

    /// Has `handler` answer HEAD at `path`, in place of the one for GET.
    #[track_caller]
    pub fn head(self, path: &str, handler: impl Handler) -> Self {
        self.method(Method::HEAD, path, handler)
    }

    /// Has `handler` answer OPTIONS at `path`, in place of the router.
    #[track_caller]
    pub fn options(self, path: &str, handler: impl Handler) -> Self {
        self.method(Method::OPTIONS, path, handler)
    }

    /// Has `handler` answer requests with `method` at `path`.
    ///
    /// # Panics
    ///
    /// * If the path does not begin with a slash, or its braces are wrong.
    /// * If no request can have the path, because a character in it has to be percent-encoded, or
    ///   if it names a parameter twice. The message says what to write.
    /// * If the method has a handler at this path already.
    /// * If another route's path cannot be told from this one, as `/{a}` and `/{b}`. The message
    ///   names both.
    /// * If the path is at or below that of a nested router.
    #[track_caller]
    pub fn method(self, method: Method, path: &str, handler: impl Handler) -> Self {
        self.route(path, Route::new().method(method, handler))
    }

    /// Has `handler` answer all methods at `path` that have no handler of their own.
    #[track_caller]
    pub fn any(self, path: &str, handler: impl Handler) -> Self {
        self.route(path, Route::new().any(handler))
    }

    /// Has `route` answer at `path`. If the path has a route already, its methods are added to that
    /// one.
    ///
    /// # Panics
    ///
    /// In the cases in which [`method`](Self::method) does, and if the path has a route already and
    /// one of the two has layers.
    #[track_caller]
    pub fn route(mut self, path: &str, route: Route) -> Self {
        check(path);
        self.refuse_below_nested(path);
        let same = self.entries.iter_mut().find(|entry| entry.path == path);
        if let Some(Entry {
            target: Target::Route(existing),
            ..
        }) = same
        {
            existing.merge(path, route);
            return self;
        }
        self.insert(path, path);
        self.entries.push(Entry {
            path: path.to_owned(),
            target: Target::Route(route),
        });
        self
    }

    /// Has `router` answer everything at and below `prefix`. The route `/` in it answers at
    /// `prefix` itself, with and without a slash at the end.
    ///
    /// The layers of `router` go around every response to a request that comes there, also around
    /// its 404. If `router` has no fallback, it uses that of this router. A prefix may have
    /// parameters. Handlers see the request's complete path. Of two nested routers, one of which is
    /// below the other, such as `/api` and `/api/v2`, the one below answers what comes there.
    ///
    /// # Panics
    ///
    /// * If `prefix` does not begin with a slash, or ends with one, or its braces are wrong.
    /// * If a route is at or below it, or another router is nested at it.
    /// * If a route of a router nested above would be hidden by this one, or the other way round.
    /// * If a route in `router` has a parameter of the same name as one in `prefix`.
    #[track_caller]
    pub fn nest(mut self, prefix: &str, router: Self) -> Self {
        check(prefix);
        assert!(
            !prefix.ends_with('/'),
            "the path {prefix:?} of a nested router ends with a slash"
        );
        for Entry { path, target } in &self.entries {
            match target {
                Target::Route(_) => assert!(
                    !is_at_or_below(path, prefix),
                    "the route {path:?} is at or below {prefix:?}, where a router is to be nested"
                ),
                Target::Nested(other) => {
                    refuse_hidden(path, other, prefix);
                    refuse_hidden(prefix, &router, path);
                }
            }
        }
        router.refuse_parameters(prefix, &parameters(prefix));
        self.insert(prefix, prefix);
        self.insert(&format!("{prefix}/"), prefix);
        self.insert(&format!("{prefix}{BELOW}"), prefix);
        self.entries.push(Entry {
            path: prefix.to_owned(),
            target: Target::Nested(router),
        });
        self
    }

    /// Has `handler` answer the requests whose path no route matches. Default: 404. A second call
    /// replaces the handler.
    pub fn fallback(mut self, handler: impl Handler) -> Self {
        self.fallback = Some(Box::new(handler));
        self
    }

    /// Puts `layer` around everything that the router answers: the routes, whether they are added
    /// before or after this call, the fallback, 404 and 405. The last layer added is the outermost.
    ///
    /// The route has been found when a layer runs: a layer can read parameters, and it cannot
    /// choose another route by changing the path.
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    #[track_caller]
    fn insert(&mut self, path: &str, given: &str) {
        let place = Place {
            entry: self.entries.len(),
            is_below: path != given && path.ends_with(BELOW),
        };
        match self.paths.insert(path, place) {
            Ok(()) => {}
            Err(matchit::InsertError::Conflict { with }) => {
                let with = with.strip_suffix(BELOW).unwrap_or(&with);
                panic!("the route {given:?} cannot be told from {with:?}")
            }
            Err(error) => panic!("the route {given:?} cannot be read: {error}"),
        }
    }

    /// Refuses routes that have one of `outer` as a parameter of their own.
    #[track_caller]
    fn refuse_parameters(&self, prefix: &str, outer: &[&str]) {
        for Entry { path, target } in &self.entries {
            let own = parameters(path);
            if let Some(name) = own.iter().find(|name| outer.contains(name)) {
                panic!(
                    "the route {path:?} is nested at {prefix:?}, which has a parameter {{{name}}} too: \
                     one of the two needs another name"
                );
            }
            if let Target::Nested(router) = target {
                router.refuse_parameters(prefix, outer);
            }
        }
    }

    #[track_caller]
    fn refuse_below_nested(&self, path: &str) {
        let nested = self
            .entries
            .iter()
            .filter(|entry| matches!(entry.target, Target::Nested(_)));
        for Entry { path: prefix, .. } in nested {
            assert!(
                !is_at_or_below(path, prefix),
                "the route {path:?} is at or below the router nested at {prefix:?}"
            );
        }
    }
}

/// How a request finds its handler.
impl Router {
    /// Answers a request. `path` is the part of the request's path that a nested router sees;
    /// `None` is all of it. `outer` is the fallback of the router around this one.
    fn serve(
        &self,
        request: Request,
        context: Context,
        path: Option<&str>,
        outer: Option<&dyn Handler>,
    ) -> Response {
        let (found, params) = self.find(request.method(), path.unwrap_or(request.uri().path()));
        let context = if params.is_empty() {
            context
        } else {
            context.with_params(params)
        };
        let fallback = self.fallback.as_deref().or(outer);
        let last = |request: Request, context: Context| match &found {
            Found::Route(route) => route.handle(request, context),
            Found::Nested(router, path) => router.serve(request, context, Some(path), fallback),
            Found::Everything => route::options(&self.methods()),
            Found::Unreadable => explain(
                StatusCode::BAD_REQUEST,
                &"a part of the path is not UTF-8 after percent-decoding",
            ),
            Found::Nothing => match fallback {
                Some(handler) => handler.handle(request, context),
                None => StatusCode::NOT_FOUND.into_response(),
            },
        };
        Next::new(&self.layers, &last).run(request, context)
    }

    /// Returns what answers at `path`, and the decoded parameters.
    fn find(&self, method: &Method, path: &str) -> (Found<'_>, Vec<(String, String)>) {
        if path == "*" && method == Method::OPTIONS {
            return (Found::Everything, Vec::new());
        }
        let Ok(matched) = self.paths.at(path) else {
            return (Found::Nothing, Vec::new());
        };
        let Place { entry, is_below } = *matched.value;
        let mut given: Vec<(&str, &str)> = matched.params.iter().collect();
        let below = if is_below { given.pop() } else { None };
        let found = match &self.entries[entry].target {
            Target::Route(route) => Found::Route(route),
            Target::Nested(router) => {
                Found::Nested(router, format!("/{}", below.map_or("", |(_, below)| below)))
            }
        };
        let decoded = given
            .into_iter()
            .map(|(name, value)| Some((name.to_owned(), path::decode(value)?)));
        match decoded.collect() {
            Some(params) => (found, params),
            None => (Found::Unreadable, Vec::new()),
        }
    }

    /// Returns the methods for which any route has a handler, each once.
    fn methods(&self) -> Vec<Method> {
        let mut methods = Vec::new();
        for entry in &self.entries {
            let of_entry = match &entry.target {
                Target::Route(route) => route.methods(),
                Target::Nested(router) => router.methods(),
            };
            methods.extend(of_entry);
        }
        let mut seen = Vec::new();
        methods.retain(|method| {
            let is_new = !seen.contains(method);
            seen.push(method.clone());
            is_new
        });
        methods
    }
}

impl Handler for Router {
    fn handle(&self, request: Request, context: Context) -> Response {
        self.serve(request, context, None, None)
    }

    /// The address of an entry stands for its route.
    fn route_id(&self, path: &str) -> Option<u64> {
        let matched = self.paths.at(path).ok()?;
        let entry = &self.entries[matched.value.entry];
        match &entry.target {
            Target::Route(_) => Some(std::ptr::from_ref(entry) as u64),
            Target::Nested(router) => {
                let below = matched.params.iter().last();
                let below = below.filter(|_| matched.value.is_below);
                let below = format!("/{}", below.map_or("", |(_, below)| below));
                router.route_id(&below)
            }
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.entries
                    .iter()
                    .map(|Entry { path, target }| (path, target)),
            )
            .finish()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(route) => route.fmt(f),
            Self::Nested(router) => router.fmt(f),
        }
    }
}

#[track_caller]
fn check(path: &str) {
    assert!(
        path.starts_with('/'),
        "the route {path:?} does not begin with a slash"
    );
    let names = parameters(path);
    let twice = names
        .iter()
        .enumerate()
        .find(|(i, name)| names[..*i].contains(name));
    if let Some((_, name)) = twice {
        panic!("the route {path:?} has two parameters {{{name}}}: one of them needs another name");
    }
    let spelled = percent_encode(path);
    assert!(
        path == spelled,
        "no request has the path {path:?} of this route: write {spelled:?}"
    );
}

/// Refuses that routes of `router`, which is nested at `at`, are hidden by another router that is
/// nested at `below`.
#[track_caller]
fn refuse_hidden(at: &str, router: &Router, below: &str) {
    if !is_at_or_below(below, at) {
        return;
    }
    let segments = at.split('/').count();
    let rest: String = below
        .split('/')
        .skip(segments)
        .map(|segment| format!("/{segment}"))
        .collect();
    let hidden = router
        .entries
        .iter()
        .find(|entry| !rest.is_empty() && is_at_or_below(&entry.path, &rest));
    if let Some(Entry { path, .. }) = hidden {
        panic!(
            "the route {path:?} of the router nested at {at:?} is hidden by the one at {below:?}"
        );
    }
}

/// Returns the names of the parameters of a route's path, in their order.
fn parameters(path: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = path;
    while let Some(open) = rest.find('{') {
        rest = &rest[open + 1..];
        // Two braces are one brace of the path itself.
        if let Some(after) = rest.strip_prefix('{') {
            rest = after;
        } else if let Some(close) = rest.find('}') {
            names.push(rest[..close].trim_start_matches('*'));
            rest = &rest[close + 1..];
        }
    }
    names
}

/// Returns a route's path as a request has it: what a path cannot hold is percent-encoded (RFC 3986
/// section 3.3). The braces of parameters stay.
fn percent_encode(path: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%{}".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Returns whether the route `path` matches only paths that are at or below the route `prefix`.
fn is_at_or_below(path: &str, prefix: &str) -> bool {
    let mut segments = path.split('/').map(around_parameter);
    prefix
        .split('/')
        .map(around_parameter)
        .all(|segment| segments.next() == Some(segment))
}

/// Returns the literal parts of a segment before and after its parameter. They are equal for two
/// segments that differ in the parameter's name only.
fn around_parameter(segment: &str) -> (&str, Option<&str>) {
    match (segment.split_once('{'), segment.rsplit_once('}')) {
        (Some((before, name)), Some((_, after))) if !name.starts_with('{') => (before, Some(after)),
        _ => (segment, None),
    }
}
