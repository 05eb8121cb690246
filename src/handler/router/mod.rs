//! Which handler answers which request: by path and method.

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

/// A [`Handler`] that finds the handler for each request by its path and method.
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
/// What stands there literally goes before what is a parameter, in whatever order they were added.
/// A parameter is at least one byte long and, but for `{*rest}`, ends at the next slash. Its value
/// is percent-decoded: `%2F` becomes a slash only then. One that is then not UTF-8 is answered with
/// 400. Literal parts are compared as they were sent, without decoding.
///
/// A slash at the end counts: `/users` and `/users/` are two paths, and neither is redirected to
/// the other.
///
/// # Methods
///
/// HEAD goes to the route's handler for HEAD, or to the one for GET: the server leaves the body
/// out. OPTIONS without a handler is answered with 204 and `Allow`, also for `*`, the server as a
/// whole. A method a path has no handler for is answered with 405 and `Allow`, a path that no route
/// has with 404, or by the [`fallback`](Self::fallback).
///
/// # Cost
///
/// A request to a route without parameters and outside of nested routers allocates nothing here.
///
/// # Examples
///
/// ```
/// use lameduck::http::{Request, StatusCode};
/// use lameduck::{Context, Handler, Router, layers};
///
/// fn hello(_request: lameduck::Request, context: Context) -> String {
///     format!("hello {}\n", context.param("name").unwrap_or("world"))
/// }
///
/// let api = Router::new().put("/stock/{item}", |_request, _context| StatusCode::NO_CONTENT);
/// let app = Router::new()
///     .get("/hello", hello)
///     .get("/hello/{name}", hello)
///     .nest("/api", api.layer(layers::body_limit(1 << 10)))
///     .layer(layers::access_log());
///
/// let ask = |method: &str, path: &str| {
///     let request = Request::builder().method(method).uri(path).body("".into()).unwrap();
///     app.handle(request, Context::root())
/// };
/// assert_eq!(ask("GET", "/hello/J%C3%B6rg").into_body().into_text(100)?, "hello Jörg\n");
/// assert_eq!(ask("PUT", "/api/stock/7").status(), 204);
/// assert_eq!(ask("PUT", "/hello").headers()["allow"], "GET, HEAD, OPTIONS");
/// assert_eq!(ask("GET", "/goodbye").status(), 404);
/// # Ok::<(), lameduck::body::BodyError>(())
/// ```
#[derive(Default)]
#[must_use]
pub struct Router {
    /// From a path to a place in `entries`.
    paths: matchit::Router<Place>,
    entries: Vec<Entry>,
    fallback: Option<Box<dyn Handler>>,
    layers: Vec<Arc<dyn Layer>>,
}

#[derive(Clone, Copy)]
struct Place {
    entry: usize,
    /// The last parameter is what a nested router sees of the path.
    below: bool,
}

/// What was added for a path.
struct Entry {
    /// As it was given.
    path: String,
    what: What,
}

enum What {
    Route(Route),
    /// Of all that is below the path.
    Nested(Router),
}

/// What there is for a request.
enum Found<'a> {
    Route(&'a Route),
    /// A nested router, and the path as that one sees it.
    Nested(&'a Router, String),
    /// `OPTIONS *`.
    Everything,
    /// A parameter that cannot be decoded.
    Unreadable,
    Nothing,
}

/// Stands for what is below a nested router's path. It is not shown to handlers.
const BELOW: &str = "/{*below}";

/// How a router is built.
///
/// The paths are the program's own, so a mistake in one is a panic, which says where: when the
/// router is built, not when a request comes.
impl Router {
    /// A router without a route: it answers everything with 404.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `handler` answer GET at `path`, and HEAD unless that has a handler of its own.
    ///
    /// # Panics
    ///
    /// As [`method`](Self::method) does; so do all of these.
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
    /// If the path does not begin with a slash or its braces are wrong; if the method has a handler
    /// there already, or another route's path cannot be told from this one, as `/{a}` and `/{b}`:
    /// both are named; and if a nested router has the path.
    #[track_caller]
    pub fn method(self, method: Method, path: &str, handler: impl Handler) -> Self {
        self.route(path, Route::new().method(method, handler))
    }

    /// Has `handler` answer the methods at `path` that have no handler of their own, whatever they
    /// are.
    #[track_caller]
    pub fn any(self, path: &str, handler: impl Handler) -> Self {
        self.route(path, Route::new().any(handler))
    }

    /// Has `route` answer at `path`, with the methods that are there already. One with layers has
    /// its path for itself.
    ///
    /// # Panics
    ///
    /// As [`method`](Self::method) does, and if the path has a route already and one of the two has
    /// layers.
    #[track_caller]
    pub fn route(mut self, path: &str, route: Route) -> Self {
        check(path);
        self.refuse_below_nested(path);
        let same = self.entries.iter_mut().find(|entry| entry.path == path);
        if let Some(Entry {
            what: What::Route(existing),
            ..
        }) = same
        {
            existing.merge(path, route);
            return self;
        }
        self.insert(path, path);
        self.entries.push(Entry {
            path: path.to_owned(),
            what: What::Route(route),
        });
        self
    }

    /// Has `router` answer all that is at and below `prefix`: its `/` is `prefix` itself, with and
    /// without a slash behind it.
    ///
    /// Its layers go around all that comes there, also around its 404. Without a fallback of its
    /// own it has this one's. A prefix may have parameters. Handlers see the request's path as it
    /// came.
    ///
    /// # Panics
    ///
    /// If `prefix` does not begin with a slash, or ends with one, if its braces are wrong, or if
    /// something else has a path at or below it.
    #[track_caller]
    pub fn nest(mut self, prefix: &str, router: Self) -> Self {
        check(prefix);
        assert!(
            !prefix.ends_with('/'),
            "the path {prefix:?} of a nested router ends with a slash"
        );
        self.refuse_below_nested(prefix);
        let below = self
            .entries
            .iter()
            .find(|entry| is_at_or_below(&entry.path, prefix));
        if let Some(Entry { path, .. }) = below {
            panic!("the route {path:?} is at or below {prefix:?}, where a router is to be nested");
        }
        self.insert(prefix, prefix);
        self.insert(&format!("{prefix}/"), prefix);
        self.insert(&format!("{prefix}{BELOW}"), prefix);
        self.entries.push(Entry {
            path: prefix.to_owned(),
            what: What::Nested(router),
        });
        self
    }

    /// Has `handler` answer where no route has the path. Default: 404. A second one replaces the
    /// first.
    pub fn fallback(mut self, handler: impl Handler) -> Self {
        self.fallback = Some(Box::new(handler));
        self
    }

    /// Puts `layer` around all that the router answers: routes, before or after this call, the
    /// fallback, 404 and 405. The last added is the outermost.
    ///
    /// The route was found before: a layer can ask for parameters, and changes nothing by changing
    /// the path.
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    #[track_caller]
    fn insert(&mut self, path: &str, given: &str) {
        let place = Place {
            entry: self.entries.len(),
            below: path != given && path.ends_with(BELOW),
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

    #[track_caller]
    fn refuse_below_nested(&self, path: &str) {
        let nested = self
            .entries
            .iter()
            .filter(|entry| matches!(entry.what, What::Nested(_)));
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
    /// `path` is the request's as this router sees it; `None` is as it came. `outer` answers where
    /// no route does.
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

    /// What there is at `path`, and its parameters, decoded.
    fn find(&self, method: &Method, path: &str) -> (Found<'_>, Vec<(String, String)>) {
        if path == "*" && method == Method::OPTIONS {
            return (Found::Everything, Vec::new());
        }
        let Ok(matched) = self.paths.at(path) else {
            return (Found::Nothing, Vec::new());
        };
        let Place { entry, below } = *matched.value;
        let mut given: Vec<(&str, &str)> = matched.params.iter().collect();
        let below = if below { given.pop() } else { None };
        let found = match &self.entries[entry].what {
            What::Route(route) => Found::Route(route),
            What::Nested(router) => {
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

    /// Those that any route has a handler for, each once.
    fn methods(&self) -> Vec<Method> {
        let mut methods = Vec::new();
        for entry in &self.entries {
            let of_entry = match &entry.what {
                What::Route(route) => route.methods(),
                What::Nested(router) => router.methods(),
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
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.entries.iter().map(|Entry { path, what }| (path, what)))
            .finish()
    }
}

impl fmt::Debug for What {
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
}

/// Whether a path that `path` matches is one of those that `prefix` begins.
fn is_at_or_below(path: &str, prefix: &str) -> bool {
    let mut segments = path.split('/').map(around_parameter);
    prefix
        .split('/')
        .map(around_parameter)
        .all(|segment| segments.next() == Some(segment))
}

/// What is literal in a segment, before a parameter and after it: two that differ in its name only
/// are the same.
fn around_parameter(segment: &str) -> (&str, Option<&str>) {
    match (segment.split_once('{'), segment.rsplit_once('}')) {
        (Some((before, name)), Some((_, after))) if !name.starts_with('{') => (before, Some(after)),
        _ => (segment, None),
    }
}
