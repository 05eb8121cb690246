//! The router: which handler answers which request.

#![cfg(feature = "router")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use lameduck::http::{self, Method, StatusCode};
use lameduck::layers::{self, HandlerExt, Layer, Next};
use lameduck::routing::Route;
use lameduck::{Body, Context, Handler, IntoResponse, Request, Response, Router};
use support::TestServer;

/// Returns a handler that answers with `name` and the value of the parameter `id`.
fn say(name: &'static str) -> impl Handler {
    move |_: Request, context: Context| match context.param("id") {
        Some(id) => format!("{name} {id}"),
        None => name.to_owned(),
    }
}

fn ask(app: &impl Handler, method: &str, path: &str) -> Response {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap();
    app.handle(request, Context::root())
}

fn text(response: Response) -> String {
    response.into_body().into_text(1000).unwrap()
}

#[track_caller]
fn check(app: &impl Handler, path: &str, expected: &str) {
    assert_eq!(text(ask(app, "GET", path)), expected, "{path}");
}

const NOT_FOUND: &str = "404 Not Found\n";

#[test]
fn a_path_finds_its_route_and_literal_parts_take_precedence() {
    let app = Router::new()
        .get("/{*id}", say("rest"))
        .get("/users/{id}", say("user"))
        .get("/users/me", say("me"))
        .get("/users/{id}/jobs", say("jobs"))
        .get("/images/{id}.png", say("image"))
        .get("/", say("root"));
    check(&app, "/", "root");
    check(&app, "/users/7", "user 7");
    check(&app, "/users/7?id=8", "user 7");
    check(&app, "/users/me", "me");
    check(&app, "/users/me/jobs", "jobs me");
    check(&app, "/images/duck.png", "image duck");
    check(&app, "/users", "rest users");
    check(&app, "/a/b/../c//d", "rest a/b/../c//d");
}

#[test]
fn a_slash_at_the_end_is_another_path() {
    let app = Router::new()
        .get("/a", say("a"))
        .get("/b/", say("b"))
        .get("/c/{id}", say("c"))
        .get("/d/{*id}", say("d"));
    check(&app, "/a", "a");
    check(&app, "/a/", NOT_FOUND);
    check(&app, "/b", NOT_FOUND);
    check(&app, "/b/", "b");
    check(&app, "/c/", NOT_FOUND);
    check(&app, "/c/x/", NOT_FOUND);
    check(&app, "/d/", NOT_FOUND);
    check(&app, "/d/x/", "d x/");
}

#[test]
fn a_parameter_is_decoded_after_the_path_was_split() {
    let app = Router::new()
        .get("/a/{id}", say("a"))
        .get("/b/{*id}", say("b"))
        .get("/c%20d", say("c d"));
    check(&app, "/a/x%2Fy", "a x/y");
    check(&app, "/a/J%C3%B6rg+1", "a Jörg+1");
    check(&app, "/a/%2e%2e", "a ..");
    check(&app, "/b/x%2Fy/z", "b x/y/z");
    check(&app, "/c%20d", "c d");
    for broken in ["/a/%ff", "/a/%4", "/a/%zz"] {
        assert_eq!(ask(&app, "GET", broken).status(), 400, "{broken}");
    }
}

#[test]
fn a_method_without_a_handler_is_answered_405_with_allow() {
    let app = Router::new()
        .get("/a", say("get"))
        .post("/a", say("post"))
        .put("/b", say("put"));
    let answer = ask(&app, "DELETE", "/a");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (405, &"GET, HEAD, POST, OPTIONS".parse().unwrap())
    );
    assert_eq!(
        text(answer),
        "405 Method Not Allowed: DELETE is not for this path\n"
    );
    let answer = ask(&app, "HEAD", "/b");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (405, &"PUT, OPTIONS".parse().unwrap())
    );
    assert_eq!(ask(&app, "DELETE", "/none").status(), 404);
}

#[test]
fn options_is_answered_for_a_path_and_for_the_server() {
    let nested = Router::new().delete("/x", say("x")).get("/y", say("y"));
    let app = Router::new()
        .get("/a", say("get"))
        .put("/b", say("put"))
        .options("/c", say("its own"))
        .nest("/n", nested);
    let server = TestServer::start(app);
    let mut client = server.client();
    let mut options = |target: &str| {
        client.send(format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.read_response();
        (
            answer.status,
            answer.field("allow").map(str::to_owned),
            answer.text().to_owned(),
        )
    };
    assert_eq!(
        options("/a"),
        (204, Some("GET, HEAD, OPTIONS".into()), String::new())
    );
    assert_eq!(
        options("*"),
        (
            204,
            Some("GET, HEAD, PUT, OPTIONS, DELETE".into()),
            String::new()
        )
    );
    assert_eq!(options("/c"), (200, None, "its own".into()));
    assert_eq!(options("/none").0, 404);
    server.stop_cleanly();
}

#[test]
fn head_is_answered_by_the_handler_for_get_without_its_body() {
    let app = Router::new()
        .get("/a", |request: Request, _: Context| {
            request.method().to_string()
        })
        .get("/b", say("get"))
        .head("/b", |_: Request, _: Context| {
            ([("x-head".parse().unwrap(), "yes")], ())
        });
    let server = TestServer::start(app);
    let mut client = server.client();
    assert_eq!(client.head("/a").field("content-length"), Some("4"));
    assert_eq!(client.head("/b").field("x-head"), Some("yes"));
    assert_eq!(client.get("/b").text(), "get");
    server.stop_cleanly();
}

#[test]
fn any_answers_the_methods_that_have_no_handler_of_their_own() {
    let app = Router::new()
        .any("/a", say("any"))
        .post("/a", say("post"))
        .method(Method::from_bytes(b"REPORT").unwrap(), "/a", say("report"));
    for (method, expected) in [
        ("GET", "any"),
        ("POST", "post"),
        ("REPORT", "report"),
        ("OPTIONS", "any"),
        ("X", "any"),
    ] {
        assert_eq!(text(ask(&app, method, "/a")), expected, "{method}");
    }
}

#[test]
fn a_fallback_answers_where_no_route_matches() {
    let app = Router::new()
        .get("/a", say("a"))
        .fallback(|request: Request, _: Context| {
            (
                StatusCode::NOT_FOUND,
                format!("no {}\n", request.uri().path()),
            )
        });
    check(&app, "/b", "no /b\n");
    assert_eq!(ask(&app, "POST", "/a").status(), 405);
}

#[test]
fn a_nested_router_answers_everything_below_its_path() {
    let show = |request: Request, context: Context| {
        let params: Vec<_> = ["id", "item", "below"]
            .iter()
            .filter_map(|name| context.param(name))
            .collect();
        format!("{} {params:?}", request.uri().path())
    };
    let items = Router::new()
        .get("/", show)
        .get("/{item}", show)
        .get("/{item}/{*rest}", show);
    let app = Router::new()
        .nest("/users/{id}/items", items)
        .get("/users/{id}/itemsx", say("other"))
        .get("/users/{id}", say("user"))
        .get("/{*id}", say("rest"));
    check(&app, "/users/7/items", "/users/7/items [\"7\"]");
    check(&app, "/users/7/items/", "/users/7/items/ [\"7\"]");
    check(
        &app,
        "/users/7/items/b%20c",
        "/users/7/items/b%20c [\"7\", \"b c\"]",
    );
    check(
        &app,
        "/users/7/items/b/c/d",
        "/users/7/items/b/c/d [\"7\", \"b\"]",
    );
    check(&app, "/users/7/items/b/", NOT_FOUND);
    check(&app, "/users/7/itemsx", "other 7");
    check(&app, "/users/7", "user 7");
    let app = Router::new().nest("/{below}", Router::new().get("/x", show).get("/", show));
    check(&app, "/a/x", "/a/x [\"a\"]");
    check(&app, "/a", "/a [\"a\"]");
}

#[test]
fn a_nested_router_without_a_fallback_uses_the_outer_one() {
    let inner = || Router::new().get("/a", say("a"));
    let app = Router::new()
        .nest("/with", inner().fallback(say("inner")))
        .nest("/without", inner().nest("/deeper", inner()))
        .fallback(say("outer"));
    check(&app, "/with/b", "inner");
    check(&app, "/without/b", "outer");
    check(&app, "/without/deeper/b", "outer");
    check(&app, "/without/deeper/a", "a");
}

/// Returns a layer that puts `name`, and the value of the parameter `id`, around the response.
fn mark(name: &'static str) -> impl Layer {
    move |request: Request, context: Context, next: Next<'_>| {
        let id = context.param("id").unwrap_or("").to_owned();
        let (mut parts, body) = next.run(request, context).into_parts();
        parts.headers.remove("content-length");
        let inside = body.into_text(1000).unwrap();
        Response::from_parts(parts, format!("{name}{id}({})", inside.trim_end()).into())
    }
}

#[test]
fn a_layer_goes_around_a_route_a_nested_router_or_everything() {
    let inner = Router::new().get("/x", say("x")).layer(mark("inner"));
    let app = Router::new()
        .layer(mark("all"))
        .get("/plain", say("plain"))
        .route(
            "/route/{id}",
            Route::new()
                .get(say("r"))
                .layer(mark("first"))
                .layer(mark("second")),
        )
        .nest("/nested", inner)
        .get("/one", say("one").layer(mark("around")));
    check(&app, "/plain", "all(plain)");
    check(&app, "/route/7", "all7(second7(first7(r 7)))");
    check(&app, "/nested/x", "all(inner(x))");
    check(&app, "/nested/y", "all(inner(404 Not Found))");
    check(&app, "/one", "all(around(one))");
    check(&app, "/none", "all(404 Not Found)");
    let refused = ask(&app, "PUT", "/route/7");
    assert_eq!(refused.status(), 405);
    assert_eq!(
        text(refused),
        "all7(second7(first7(405 Method Not Allowed: PUT is not for this path)))"
    );
}

#[test]
fn a_layer_that_changes_the_path_changes_no_route() {
    let rewrite = |mut request: Request, context: Context, next: Next<'_>| {
        *request.uri_mut() = "/".parse().unwrap();
        next.run(request, context)
    };
    let app = Router::new()
        .nest("/a/b", Router::new().get("/{id}", say("found")))
        .layer(rewrite);
    check(&app, "/a/b/7", "found 7");
}

#[test]
fn a_preflight_is_answered_for_a_router_that_has_no_options() {
    let app = Router::new().put("/a", say("put")).layer(
        layers::Cors::new()
            .origin("https://b")
            .methods([Method::PUT]),
    );
    let request = http::Request::builder()
        .method("OPTIONS")
        .uri("/a")
        .header("origin", "https://b");
    let request = request
        .header("access-control-request-method", "PUT")
        .body(Body::empty())
        .unwrap();
    let response = app.handle(request, Context::root());
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["access-control-allow-methods"]
        ),
        (204, &"PUT".parse().unwrap())
    );
}

#[test]
fn a_panicking_handler_of_a_route_is_500_through_all_layers() {
    let app = Router::new()
        .get("/", |_: Request, _: Context| -> () { panic!("on purpose") })
        .layer(layers::request_id());
    let server = TestServer::start(app);
    assert_eq!(server.client().get("/").status, 500);
    let _ = server.stop();
}

/// Checks that building the router panics with a message that contains `names`.
#[track_caller]
fn conflict(build: impl FnOnce() -> Router, names: &[&str]) {
    let panic = catch_unwind(AssertUnwindSafe(build)).expect_err("it is built");
    let text = panic.downcast_ref::<String>().expect("it says why");
    assert!(names.iter().all(|name| text.contains(name)), "{text}");
}

#[test]
fn routes_that_cannot_be_told_apart_are_named_when_the_router_is_built() {
    let inner = || Router::new().get("/x", say("x"));
    conflict(
        || Router::new().get("/a", say("1")).get("/a", say("2")),
        &["GET", "\"/a\""],
    );
    conflict(
        || Router::new().any("/a", say("1")).any("/a", say("2")),
        &["any method", "\"/a\""],
    );
    conflict(
        || Router::new().get("/{a}", say("1")).put("/{b}", say("2")),
        &["\"/{a}\"", "\"/{b}\""],
    );
    conflict(
        || Router::new().get("/n/x", say("1")).nest("/n", inner()),
        &["\"/n/x\"", "\"/n\""],
    );
    conflict(
        || Router::new().nest("/n", inner()).get("/n/x", say("1")),
        &["\"/n/x\"", "\"/n\""],
    );
    conflict(
        || Router::new().nest("/n", inner()).nest("/n", inner()),
        &["\"/n\""],
    );
    conflict(
        || Router::new().nest("/{n}", inner()).get("/{m}", say("1")),
        &["\"/{n}\"", "\"/{m}\""],
    );
    conflict(
        || Router::new().nest("/{n}", inner()).get("/{m}/x", say("1")),
        &["\"/{n}", "\"/{m}/x\""],
    );
    let layered = || Route::new().get(say("1")).layer(mark("a"));
    conflict(
        || Router::new().route("/a", layered()).put("/a", say("2")),
        &["\"/a\"", "layers"],
    );
}

#[test]
fn a_path_that_cannot_be_read_is_refused_when_the_router_is_built() {
    for path in ["", "a", "*", "/{", "/{}", "/{*rest}/x", "/{a}{b}"] {
        conflict(
            || Router::new().get(path, say("1")),
            &[&format!("{path:?}")],
        );
    }
    for prefix in ["/", "/a/", "a", "/{*a}"] {
        conflict(
            || Router::new().nest(prefix, Router::new()),
            &[&format!("{prefix:?}")],
        );
    }
}

#[test]
fn a_router_is_a_server() {
    fn hello(_request: Request, context: Context) -> impl IntoResponse + use<> {
        format!("hello {}\n", context.param("name").unwrap_or("nobody"))
    }
    let server = TestServer::start(Router::new().get("/hello/{name}", hello));
    let mut client = server.client();
    assert_eq!(client.get("/hello/anna").text(), "hello anna\n");
    assert_eq!(client.get("http://other/hello/ben?x").text(), "hello ben\n");
    server.stop_cleanly();
}

#[test]
fn a_parameter_that_is_named_twice_is_refused() {
    conflict(
        || Router::new().get("/{id}/x/{id}", say("1")),
        &["\"/{id}/x/{id}\"", "two parameters {id}"],
    );
    let inner = || Router::new().nest("/deeper", Router::new().get("/{id}", say("1")));
    conflict(
        || Router::new().nest("/{id}", inner()),
        &["\"/{id}\"", "another name"],
    );
    // Two braces are one brace of the path.
    let app = Router::new().nest("/{id}", Router::new().get("/{{id}}/{name}", say("1")));
    check(&app, "/7/%7Bid%7D/a", "404 Not Found\n");
}

#[test]
fn a_path_that_no_request_has_is_refused_with_the_right_spelling() {
    for (path, write) in [
        ("/caf\u{e9}", "\"/caf%C3%A9\""),
        ("/a b/{id}", "\"/a%20b/{id}\""),
        ("/a?b", "\"/a%3Fb\""),
        ("/a#b", "\"/a%23b\""),
    ] {
        conflict(|| Router::new().get(path, say("1")), &[write]);
        conflict(|| Router::new().nest(path, Router::new()), &[write]);
    }
    let app = Router::new().get("/caf%C3%A9", say("found"));
    check(&app, "/caf%C3%A9", "found");
}

#[test]
fn routers_can_be_nested_side_by_side_below_each_other() {
    let v1 = || Router::new().get("/x", say("v1")).get("/", say("v1 root"));
    let v2 = || Router::new().get("/x", say("v2")).get("/", say("v2 root"));
    for app in [
        Router::new().nest("/api", v1()).nest("/api/v2", v2()),
        Router::new().nest("/api/v2", v2()).nest("/api", v1()),
    ] {
        check(&app, "/api/x", "v1");
        check(&app, "/api", "v1 root");
        check(&app, "/api/v2/x", "v2");
        check(&app, "/api/v2", "v2 root");
        check(&app, "/api/v2/", "v2 root");
        check(&app, "/api/v2/y", "404 Not Found\n");
        check(&app, "/api/v2x", "404 Not Found\n");
    }
    let hidden = || Router::new().get("/v2/x", say("hidden"));
    conflict(
        || Router::new().nest("/api", hidden()).nest("/api/v2", v2()),
        &["\"/v2/x\"", "hidden"],
    );
    conflict(
        || Router::new().nest("/api/v2", v2()).nest("/api", hidden()),
        &["\"/v2/x\"", "hidden"],
    );
}
