//! CORS: which scripts of other origins may use this server.

use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::conn::message::{Request, Response};
use crate::handler::into_response::IntoResponse;
use crate::handler::layer::{Layer, Next};
use crate::lifecycle::context::Context;

/// The CORS protocol of the Fetch standard as a layer: it tells browsers which other origins'
/// scripts may use this server.
///
/// The layer answers a preflight, which is OPTIONS with `Access-Control-Request-Method`, by itself
/// with 204. A request of an origin that is not named is served like any other, but without the
/// fields that let a script read the response. CORS keeps scripts in browsers from reading
/// responses. It keeps no other client from anything, and no request from being served.
///
/// Put it around a complete `Router`, so that scripts can also read error responses. Of two such
/// layers around each other the inner one decides about responses, and the outer one answers
/// preflights.
///
/// # Examples
///
/// ```
/// use lameduck::http::Method;
/// use lameduck::layers::{self, HandlerExt};
/// use lameduck::{Context, Handler, Request};
///
/// let cors = layers::Cors::new()
///     .origin("https://shop.example")
///     .methods([Method::GET, Method::PUT]);
/// let app = (|_request, _context| "stock").layer(cors);
///
/// let mut request = Request::default();
/// let origin = "https://shop.example";
/// request.headers_mut().insert("origin", origin.parse().unwrap());
/// let response = app.handle(request, Context::root());
/// assert_eq!(response.headers()["access-control-allow-origin"], origin);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Cors {
    /// The origins that are allowed. `None` allows every origin.
    origins: Option<Vec<HeaderValue>>,
    credentials: bool,
    /// The response fields that scripts may read. It is sent with every response to an allowed
    /// origin; the three below are sent with preflights only.
    exposed: Option<HeaderValue>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    /// Whether scripts may set any request field.
    any_headers: bool,
    max_age: Option<HeaderValue>,
}

impl Default for Cors {
    /// As [`new`](Self::new): no origin is allowed.
    fn default() -> Self {
        Self {
            origins: Some(Vec::new()),
            credentials: false,
            exposed: None,
            methods: None,
            headers: None,
            any_headers: false,
            max_age: None,
        }
    }
}

impl Cors {
    /// Returns a layer that allows no origin, until one is [named](Self::origin) or
    /// [all](Self::any_origin) are allowed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows this origin as well, such as `https://shop.example`, with the port if it is not the
    /// scheme's default. It is compared byte for byte with what browsers send.
    ///
    /// # Panics
    ///
    /// If no browser sends `origin` as it is written, because it is `*`, has a path or a slash at
    /// its end, capital letters in its scheme or host, or no scheme; or if
    /// [`any_origin`](Self::any_origin) was called. The message says what to write.
    #[track_caller]
    pub fn origin(mut self, origin: &str) -> Self {
        check(origin);
        let origin = HeaderValue::from_str(origin).expect("an origin is visible text");
        let origins = self.origins.as_mut();
        origins
            .expect("all origins are allowed already: leave `any_origin()` out to name them")
            .push(origin);
        self
    }

    /// Allows all origins, without credentials.
    ///
    /// # Panics
    ///
    /// If [`credentials`](Self::credentials) was called: the owner of any page that a user visits
    /// could then act as that user. If an [`origin`](Self::origin) was named.
    #[track_caller]
    pub fn any_origin(mut self) -> Self {
        assert!(
            !self.credentials,
            "with credentials the origins have to be named"
        );
        assert!(
            self.origins.as_ref().is_none_or(Vec::is_empty),
            "an origin is named already: leave `origin(...)` out to allow all"
        );
        self.origins = None;
        self
    }

    /// Allows scripts to make requests with the user's cookies.
    ///
    /// # Panics
    ///
    /// If [`any_origin`](Self::any_origin) was called.
    #[track_caller]
    pub fn credentials(mut self) -> Self {
        assert!(
            self.origins.is_some(),
            "with credentials the origins have to be named"
        );
        self.credentials = true;
        self
    }

    /// Sets the methods that scripts may use. Default: GET, HEAD and POST, which need no
    /// permission.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = Some(list(methods));
        self
    }

    /// Sets the request fields that scripts may set. Default: those that need no permission.
    pub fn headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers = Some(list(names));
        self
    }

    /// Allows scripts to set any request field: the response to a preflight names those that it asks
    /// for.
    pub fn any_headers(mut self) -> Self {
        self.any_headers = true;
        self
    }

    /// Sets the response fields that scripts may read. Default: those that need no permission.
    pub fn expose(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.exposed = Some(list(names));
        self
    }

    /// Sets how long a browser may cache the response to a preflight, in whole seconds. By default
    /// the field is not sent, and browsers take that as 5 s.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age.as_secs().into());
        self
    }

    /// Returns the value of `Access-Control-Allow-Origin`. `None` if `origin` is not allowed.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        match &self.origins {
            // Also without an origin: a cache may give the response to a script of one.
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => origin.filter(|origin| origins.contains(origin)).cloned(),
        }
    }

    fn preflight(&self, request: &Request) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let asked = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS);
        let headers = if self.any_headers {
            let vary = HeaderValue::from_name(ACCESS_CONTROL_REQUEST_HEADERS);
            response.headers_mut().append(VARY, vary);
            asked.cloned()
        } else {
            self.headers.clone()
        };
        let fields = [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, &headers),
            (ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ];
        insert(response.headers_mut(), fields);
        response
    }
}

impl Layer for Cors {
    fn handle(&self, request: Request, context: Context, next: Next<'_>) -> Response {
        let allowed = self.allowed(request.headers().get(ORIGIN));
        let is_preflight = request.method() == Method::OPTIONS
            && request.headers().contains_key(ORIGIN)
            && request
                .headers()
                .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let mut response = match (is_preflight, &allowed) {
            (false, _) => next.run(request, context),
            (true, Some(_)) => self.preflight(&request),
            (true, None) => StatusCode::NO_CONTENT.into_response(),
        };
        let headers = response.headers_mut();
        if self.origins.is_some() {
            // Also in the response to a request without an origin: a cache must not give that
            // response to a script of another origin.
            headers.append(VARY, HeaderValue::from_name(ORIGIN));
        }
        // A `Cors` nearer to the handler has decided for its routes.
        if allowed.is_some() && !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
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

/// Refuses an origin that no browser sends, and says what it would send.
#[track_caller]
fn check(origin: &str) {
    assert!(
        origin != "*",
        "\"*\" is not an origin: write `any_origin()` to allow all"
    );
    // The origin of documents that have none of their own, such as a file.
    if origin == "null" {
        return;
    }
    let Some((scheme, host)) = origin.split_once("://") else {
        panic!("the origin {origin:?} has no scheme: write \"https://{origin}\", for example");
    };
    let host = host.split('/').next().unwrap_or_default();
    let sent = format!("{scheme}://{host}").to_ascii_lowercase();
    assert!(
        origin == sent,
        "no browser sends the origin {origin:?}: write {sent:?}"
    );
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
