//! The handlers of one path, by method.

use std::fmt;
use std::sync::Arc;

use http::header::ALLOW;
use http::{HeaderValue, Method, StatusCode};

use crate::conn::message::{Request, Response};
use crate::handler::Handler;
use crate::handler::failure::explain;
use crate::handler::into_response::IntoResponse;
use crate::handler::layer::{Layer, Next};
use crate::lifecycle::context::Context;

/// The handlers of one path, and the layers around them, for
/// [`Router::route`](crate::Router::route).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use lameduck::routing::Route;
/// use lameduck::{Router, layers};
///
/// let jobs = Route::new()
///     .get(|_request, _context| "the jobs\n")
///     .post(|_request, _context| "a new job\n")
///     .layer(layers::timeout(Duration::from_secs(5)));
/// let app = Router::new().route("/jobs", jobs);
/// # let _ = app;
/// ```
#[derive(Default)]
#[must_use]
pub struct Route {
    methods: Vec<(Method, Box<dyn Handler>)>,
    any: Option<Box<dyn Handler>>,
    layers: Vec<Arc<dyn Layer>>,
}

impl Route {
    /// Returns a route without handlers, which answers OPTIONS with 204 and all other methods with
    /// 405.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has `handler` answer GET, and HEAD unless that has a handler of its own.
    ///
    /// # Panics
    ///
    /// If the method has a handler already. This holds for the methods below, too.
    #[track_caller]
    pub fn get(self, handler: impl Handler) -> Self {
        self.method(Method::GET, handler)
    }

    /// Has `handler` answer POST.
    #[track_caller]
    pub fn post(self, handler: impl Handler) -> Self {
        self.method(Method::POST, handler)
    }

    /// Has `handler` answer PUT.
    #[track_caller]
    pub fn put(self, handler: impl Handler) -> Self {
        self.method(Method::PUT, handler)
    }

    /// Has `handler` answer DELETE.
    #[track_caller]
    pub fn delete(self, handler: impl Handler) -> Self {
        self.method(Method::DELETE, handler)
    }

    /// Has `handler` answer PATCH.
    #[track_caller]
    pub fn patch(self, handler: impl Handler) -> Self {
        self.method(Method::PATCH, handler)
    }

    /// Has `handler` answer requests with `method`.
    ///
    /// # Panics
    ///
    /// If the method has a handler already.
    #[track_caller]
    pub fn method(mut self, method: Method, handler: impl Handler) -> Self {
        assert!(
            self.at(&method).is_none(),
            "{method} has two handlers in one route"
        );
        self.methods.push((method, Box::new(handler)));
        self
    }

    /// Has `handler` answer all methods that have no handler of their own.
    ///
    /// # Panics
    ///
    /// If there is such a handler already.
    #[track_caller]
    pub fn any(mut self, handler: impl Handler) -> Self {
        assert!(
            self.any.is_none(),
            "there are two handlers for any method in one route"
        );
        self.any = Some(Box::new(handler));
        self
    }

    /// Puts `layer` around everything that is answered at this path, including 405 and OPTIONS. The
    /// last layer added is the outermost.
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// Adds the handlers of another route for the same path.
    #[track_caller]
    pub(super) fn merge(&mut self, path: &str, other: Self) {
        let plain = self.layers.is_empty() && other.layers.is_empty();
        assert!(
            plain,
            "the route {path:?} is added twice, and layers can only go around one of the two"
        );
        for (method, handler) in other.methods {
            assert!(
                self.at(&method).is_none(),
                "the route {method} {path:?} is added twice"
            );
            self.methods.push((method, handler));
        }
        assert!(
            self.any.is_none() || other.any.is_none(),
            "the route for any method at {path:?} is added twice"
        );
        self.any = self.any.take().or(other.any);
    }

    /// Returns the methods that have a handler of their own here, and HEAD if GET has one.
    pub(super) fn methods(&self) -> Vec<Method> {
        let mut methods: Vec<Method> = self
            .methods
            .iter()
            .map(|(method, _)| method.clone())
            .collect();
        let get = methods.iter().position(|method| method == Method::GET);
        if let Some(get) = get.filter(|_| !methods.contains(&Method::HEAD)) {
            methods.insert(get + 1, Method::HEAD);
        }
        methods
    }

    fn at(&self, method: &Method) -> Option<&dyn Handler> {
        self.methods
            .iter()
            .find(|(given, _)| given == method)
            .map(|(_, handler)| &**handler)
    }

    /// Calls the handler for the request's method.
    fn dispatch(&self, request: Request, context: Context) -> Response {
        let method = request.method();
        let for_get = || self.at(&Method::GET).filter(|_| method == Method::HEAD);
        match self.at(method).or_else(for_get).or(self.any.as_deref()) {
            Some(handler) => handler.handle(request, context),
            None if method == Method::OPTIONS => options(&self.methods()),
            None => {
                let why = format_args!("{method} is not for this path");
                let mut response = explain(StatusCode::METHOD_NOT_ALLOWED, &why);
                response.headers_mut().insert(ALLOW, allow(&self.methods()));
                response
            }
        }
    }
}

impl Handler for Route {
    fn handle(&self, request: Request, context: Context) -> Response {
        let last = |request: Request, context: Context| self.dispatch(request, context);
        Next::new(&self.layers, &last).run(request, context)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = self.any.iter().map(|_| "any");
        f.debug_list()
            .entries(
                self.methods
                    .iter()
                    .map(|(method, _)| method.as_str())
                    .chain(any),
            )
            .finish()
    }
}

/// Returns the response to OPTIONS, which names the methods (RFC 9110 section 9.3.7).
pub(super) fn options(methods: &[Method]) -> Response {
    ([(ALLOW, allow(methods))], StatusCode::NO_CONTENT).into_response()
}

fn allow(methods: &[Method]) -> HeaderValue {
    let options = (!methods.contains(&Method::OPTIONS)).then_some("OPTIONS");
    let names: Vec<_> = methods.iter().map(Method::as_str).chain(options).collect();
    HeaderValue::try_from(names.join(", ")).expect("methods are tokens, which a value can hold")
}
