//! What pages of other origins may do here.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::conn::message::{Request, Response};
use crate::handler::into_response::IntoResponse;
use crate::handler::layer::{Layer, Next};
use crate::lifecycle::context::Context;

/// Tells browsers what scripts of other origins may ask for here and read of it: the CORS protocol
/// of the Fetch standard.
///
/// A preflight (OPTIONS with `Access-Control-Request-Method`) is answered with 204 by the layer
/// itself; a request of an origin that is not named is served as any other, without the fields that
/// let a script read the answer. It keeps scripts in browsers from reading, nobody else from
/// asking.
///
/// Put it around a whole `Router`, so that errors are readable too.
///
/// # Examples
///
/// ```
/// use lameduck::http::Method;
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let cors = layers::Cors::new().origin("https://shop.example").methods([Method::GET, Method::PUT]);
/// let app = (|_request, _context| "stock").layer(cors);
///
/// let mut request = Request::default();
/// request.headers_mut().insert("origin", "https://shop.example".parse().unwrap());
/// let response = app.handle(request, Context::root());
/// assert_eq!(response.headers()["access-control-allow-origin"], "https://shop.example");
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Cors {
    /// `None` is any.
    origins: Option<Vec<HeaderValue>>,
    credentials: bool,
    /// For every response to an origin that is allowed.
    exposed: Option<HeaderValue>,
    /// For preflights.
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

impl Cors {
    /// Lets no origin do anything, until one is [named](Self::origin) or [all](Self::any_origin)
    /// are.
    pub fn new() -> Self {
        Self {
            origins: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Lets this origin in also: `https://shop.example`, with the port if it is not the scheme's
    /// own. It is compared as it is written here.
    ///
    /// # Panics
    ///
    /// If it is no visible text.
    #[track_caller]
    pub fn origin(mut self, origin: &str) -> Self {
        let origin = HeaderValue::from_str(origin).expect("an origin is visible text");
        self.origins.get_or_insert_default().push(origin);
        self
    }

    /// Lets all origins in, without credentials.
    ///
    /// # Panics
    ///
    /// After [`credentials`](Self::credentials): whoever lures a user to a page of his could act as
    /// that user.
    #[track_caller]
    pub fn any_origin(mut self) -> Self {
        assert!(
            !self.credentials,
            "with credentials the origins have to be named"
        );
        self.origins = None;
        self
    }

    /// Lets scripts send and receive with the user's cookies.
    ///
    /// # Panics
    ///
    /// After [`any_origin`](Self::any_origin).
    #[track_caller]
    pub fn credentials(mut self) -> Self {
        assert!(
            self.origins.is_some(),
            "with credentials the origins have to be named"
        );
        self.credentials = true;
        self
    }

    /// The methods that scripts may use. Default: those that need no leave, GET, HEAD and POST.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = Some(list(methods));
        self
    }

    /// The request fields that scripts may set. Default: those that need no leave.
    pub fn headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers = Some(list(names));
        self
    }

    /// The response fields that scripts may read. Default: those that need no leave.
    pub fn expose(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.exposed = Some(list(names));
        self
    }

    /// How long a browser may remember a preflight's answer, in whole seconds. Default: not said,
    /// which is 5 s.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age.as_secs().into());
        self
    }

    /// What an origin is told that it is; `None` if it is not let in.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => origins.contains(origin).then(|| origin.clone()),
        }
    }

    fn preflight(&self) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let fields = [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers),
            (ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ];
        insert(response.headers_mut(), fields);
        response
    }
}

impl Layer for Cors {
    fn handle(&self, request: Request, context: Context, next: Next<'_>) -> Response {
        let allowed = request
            .headers()
            .get(ORIGIN)
            .and_then(|origin| self.allowed(origin));
        let is_preflight = request.method() == Method::OPTIONS
            && request.headers().contains_key(ORIGIN)
            && request
                .headers()
                .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let mut response = match (is_preflight, &allowed) {
            (false, _) => next.run(request, context),
            (true, Some(_)) => self.preflight(),
            (true, None) => StatusCode::NO_CONTENT.into_response(),
        };
        let headers = response.headers_mut();
        if self.origins.is_some() {
            // Also where there was no origin: a cache must not give that answer to one.
            headers.append(VARY, HeaderValue::from_name(ORIGIN));
        }
        if allowed.is_some() {
            let credentials = self.credentials.then(|| HeaderValue::from_static("true"));
            let fields = [
                (ACCESS_CONTROL_ALLOW_ORIGIN, &allowed),
                (ACCESS_CONTROL_ALLOW_CREDENTIALS, &credentials),
                (ACCESS_CONTROL_EXPOSE_HEADERS, &self.exposed),
            ];
            insert(headers, fields);
        }
        response
    }
}

fn insert(headers: &mut HeaderMap, fields: [(HeaderName, &Option<HeaderValue>); 3]) {
    for (name, value) in fields {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
}

fn list<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> HeaderValue {
    let words: Vec<T> = words.into_iter().collect();
    let text = words
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ");
    HeaderValue::try_from(text).expect("methods and field names are tokens, which a value can hold")
}
