//! No client waits for the slow handler or the silent connection of another one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Read;

use lameduck::{Body, Context, IntoResponse, Request, Response};

use support::{
    Client, Gate, LIMIT, TestServer, builder, eventually, gated, get, hello, millis, now, pass_time,
};

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Checks that a request on a new connection is answered, and ten on the connection of `known`.
#[track_caller]
fn assert_served(server: &TestServer, known: &mut Client) {
    let began = now();
    assert_eq!(server.client().get("/fast").text(), "/fast");
    for _ in 0..10 {
        assert_eq!(known.get("/fast").text(), "/fast");
    }
    let took = now() - began;
    assert!(took < LIMIT / 5, "11 requests took {took:?}");
}

#[test]
fn a_thousand_idle_connections_on_two_workers_do_not_hold_up_a_request() {
    let server = TestServer::start(hello);
    let mut idle: Vec<_> = (0..1000).map(|_| server.used_client("/")).collect();

    let began = now();
    assert_eq!(server.client().get("/").text(), "hello");
    let took = now() - began;
    println!("beside 1,000 idle connections: {took:?}");
    assert!(took < LIMIT / 10, "{took:?}");

    for client in &mut idle {
        assert_eq!(client.get("/").text(), "hello");
    }
    let stats = server.handle().stats();
    assert_eq!((stats.accepted, stats.answered), (1001, 2001));
    server.stop_cleanly();
    for client in &mut idle {
        client.expect_eof();
    }
}

#[test]
fn a_thousand_silent_and_half_sent_connections_do_not_hold_up_a_request() {
    let server = TestServer::start(hello);
    let mut waiting: Vec<_> = (0..1000).map(|_| server.client()).collect();
    for (i, client) in waiting.iter_mut().enumerate() {
        client.send(&get("/")[..i % 20]);
    }
    server.wait_accepted(1000);

    assert_eq!(server.client().get("/").text(), "hello");

    for (i, client) in waiting.iter_mut().enumerate() {
        client.send(&get("/")[i % 20..]);
    }
    for client in &mut waiting {
        assert_eq!(client.read_response().text(), "hello");
    }
}

#[test]
fn a_blocked_handler_holds_up_no_other_connection() {
    for workers in [2, 3, 16] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(workers), gated(&gate));
        let mut known = server.used_client("/fast");
        let mut blocked = server.block(&gate, "/block");
        assert_served(&server, &mut known);
        blocked.expect_nothing_yet();
        gate.open();
        assert_eq!(blocked.read_response().text(), "/block");
        server.stop_cleanly();
    }
}

#[test]
fn the_first_slow_call_of_a_route_that_was_always_fast_holds_up_no_other_connection() {
    let gate = Gate::new();
    let waits = gate.clone();
    let server = TestServer::start(move |request: Request, _: Context| -> Response {
        if request.uri().query() == Some("block") {
            waits.pass();
        }
        request.uri().path().to_owned().into_response()
    });
    let mut known = server.used_client("/fast");
    for _ in 0..1000 {
        assert_eq!(known.get("/work").status, 200);
    }
    let mut blocked = server.block(&gate, "/work?block");
    assert_served(&server, &mut known);
    gate.open();
    assert_eq!(blocked.read_response().status, 200);
}

#[test]
fn every_permit_blocked_at_once_holds_up_no_other_connection() {
    for workers in [2, 3, 16, 64] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(workers), gated(&gate));
        let mut known = server.used_client("/fast");
        // Each is the first call of its route, so that it begins with a permit.
        let mut blocked: Vec<_> = (0..cores().min(workers - 1))
            .map(|i| {
                let mut client = server.client();
                client.send_get(&format!("/route-{i}/block"));
                client
            })
            .collect();
        assert_served(&server, &mut known);
        gate.wait_entered(blocked.len());
        assert_served(&server, &mut known);
        gate.open();
        assert_all_answered(&mut blocked);
    }
}

#[test]
fn all_workers_but_one_blocked_hold_up_no_other_connection() {
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(4), gated(&gate));
    let mut known = server.used_client("/fast");
    let mut blocked: Vec<_> = (0..3).map(|_| server.block(&gate, "/block")).collect();
    assert_served(&server, &mut known);
    gate.open();
    for client in &mut blocked {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn fifteen_of_sixteen_workers_blocked_hold_up_no_other_connection() {
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(16), gated(&gate));
    let mut known = server.used_client("/fast");
    let mut blocked = Vec::new();
    // A quick call comes before each, so that none of them is expected to be slow. Only some
    // workers take calls that are.
    for i in 0..15 {
        let segment = if i < 8 { "/one" } else { "/other" };
        if i != 14 {
            assert_eq!(server.client().get(&format!("{segment}/quick")).status, 200);
        }
        let segment = if i == 14 { "/third" } else { segment };
        blocked.push(server.block(&gate, &format!("{segment}/block")));
        pass_time(millis(5));
    }
    assert_served(&server, &mut known);
    gate.open();
    for client in &mut blocked {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn more_slow_requests_than_workers_hold_up_no_fast_one_and_are_all_answered() {
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(4), gated(&gate));
    let mut known = server.used_client("/fast");
    assert_eq!(known.get("/queue/slow").status, 200);
    let mut slow: Vec<_> = (0..40).map(|_| server.client()).collect();
    for client in &mut slow {
        client.send_get("/queue/block");
    }
    gate.wait_entered(3);
    assert_served(&server, &mut known);
    assert_eq!(gate.entered(), 3, "one worker is kept for what is fast");
    gate.open();
    for client in &mut slow {
        assert_eq!(client.read_response().text(), "/queue/block");
    }
}

#[test]
fn sixty_four_handlers_block_at_the_same_time() {
    for expected_slow in [false, true] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(64 + cores().min(64)), gated(&gate));
        if expected_slow {
            assert_eq!(server.client().get("/a/slow").status, 200);
        }
        let mut clients: Vec<_> = (0..64).map(|_| server.client()).collect();
        for client in &mut clients {
            client.send_get("/a/block");
        }
        gate.wait_entered(64);
        gate.open();
        for client in &mut clients {
            assert_eq!(client.read_response().text(), "/a/block");
        }
        server.stop_cleanly();
    }
}

#[track_caller]
fn assert_all_answered(blocked: &mut [Client]) {
    for client in blocked {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn with_all_workers_blocked_half_a_head_gets_408_in_time() {
    for workers in [1, 4] {
        let gate = Gate::new();
        let server = TestServer::with(
            builder().workers(workers).head_timeout(millis(200)),
            gated(&gate),
        );
        let mut early = server.client();
        early.send("GET / HTTP/1.1\r\nHo");
        let mut blocked = server.block_all(&gate, workers);
        let began = now();
        let mut late = server.client();
        late.send("G");
        assert_eq!(early.read_response().status, 408);
        let answer = late.read_response();
        assert_eq!(answer.status, 408);
        assert!(answer.closes());
        let took = now() - began;
        assert!(took >= millis(195) && took < LIMIT / 5, "{took:?}");
        late.expect_eof();
        gate.open();
        assert_all_answered(&mut blocked);
        server.stop_cleanly();
    }
}

#[test]
fn with_all_workers_blocked_a_silent_connection_closes_in_time() {
    for workers in [1, 4] {
        let gate = Gate::new();
        let server = TestServer::with(
            builder().workers(workers).head_timeout(millis(200)),
            gated(&gate),
        );
        let mut blocked = server.block_all(&gate, workers);
        let began = now();
        server.client().expect_eof();
        let took = now() - began;
        assert!(took >= millis(195) && took < LIMIT / 5, "{took:?}");
        gate.open();
        assert_all_answered(&mut blocked);
    }
}

#[test]
fn with_all_workers_blocked_idle_connections_close_in_time() {
    for workers in [1, 4] {
        let gate = Gate::new();
        let server = TestServer::with(
            builder().workers(workers).idle_timeout(millis(300)),
            gated(&gate),
        );
        let mut idle: Vec<_> = (0..20).map(|_| server.used_client("/fast")).collect();
        let mut blocked = server.block_all(&gate, workers);
        for client in &mut idle {
            client.expect_eof();
        }
        gate.open();
        assert_all_answered(&mut blocked);
    }
}

#[test]
fn with_all_workers_blocked_a_complete_request_gets_503_in_time() {
    for workers in [1, 4] {
        let gate = Gate::new();
        let server = TestServer::with(
            builder().workers(workers).queue_timeout(millis(200)),
            gated(&gate),
        );
        let mut known = server.used_client("/fast");
        let mut blocked = server.block_all(&gate, workers);
        let began = now();
        known.send_get("/fast");
        let mut new = server.client();
        new.send_get("/fast");
        let mut upload = server.client();
        upload.send(support::post("/fast", b"twelve bytes"));
        for client in [&mut known, &mut new, &mut upload] {
            let answer = client.read_response();
            assert_eq!(answer.status, 503);
            assert!(
                answer
                    .field("retry-after")
                    .is_some_and(|seconds| seconds.parse::<u32>().is_ok()),
                "{answer:?}"
            );
            assert!(answer.closes(), "{answer:?}");
            client.expect_eof();
        }
        let took = now() - began;
        assert!(took >= millis(195) && took < LIMIT / 5, "{took:?}");
        assert_eq!(gate.entered(), workers);
        gate.open();
        assert_all_answered(&mut blocked);
        server.stop_cleanly();
    }
}

#[test]
fn a_slow_request_for_which_no_worker_comes_free_gets_503_in_time() {
    let gate = Gate::new();
    let server = TestServer::with(
        builder().workers(2).queue_timeout(millis(200)),
        gated(&gate),
    );
    let mut clients: Vec<_> = (0..3).map(|_| server.client()).collect();
    clients
        .iter_mut()
        .for_each(|client| client.send_get("/a/block"));
    // The second one waits for a while because its route is slow, and then gets the other worker.
    gate.wait_entered(2);
    eventually("the third is answered with 503", || {
        server.handle().stats().overloaded == 1
    });
    assert_eq!(gate.entered(), 2);
    gate.open();
    let mut answers: Vec<_> = clients
        .iter_mut()
        .map(|client| client.read_response().status)
        .collect();
    answers.sort_unstable();
    assert_eq!(answers, [200, 200, 503]);
    assert_eq!(server.client().get("/a/block").status, 200);
}

#[test]
fn as_many_slow_requests_as_there_are_workers_all_run() {
    for workers in [1, 2, 4, 16] {
        let gate = Gate::new();
        let server = TestServer::with(
            builder().workers(workers).queue_timeout(millis(1000)),
            gated(&gate),
        );
        let mut clients: Vec<_> = (0..workers).map(|_| server.client()).collect();
        clients
            .iter_mut()
            .for_each(|client| client.send_get("/a/block"));
        gate.wait_entered(workers);
        gate.open();
        for client in &mut clients {
            assert_eq!(client.read_response().status, 200, "{workers} workers");
        }
        assert_eq!(server.handle().stats().overloaded, 0);
    }
}

#[test]
fn a_fast_request_is_answered_at_once_beside_slow_ones_of_a_route_beside_it() {
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(16), gated(&gate));
    // As many as run beside the workers that are kept for fast handlers, and more.
    let mut blocked: Vec<_> = (0..20).map(|_| server.client()).collect();
    blocked
        .iter_mut()
        .for_each(|client| client.send_get("/api/poll/block"));
    gate.wait_entered(14.min(16 - cores()));
    let began = now();
    for path in ["/api/poll/health", "/api/health", "/api", "/api/poll"] {
        assert_eq!(server.client().get(path).text(), path);
    }
    let took = now() - began;
    assert!(took < millis(2500), "{took:?}");
    gate.open();
    assert_all_answered(&mut blocked);
}

#[test]
fn a_fast_request_is_answered_beside_more_slow_ones_than_workers_from_cold() {
    for workers in [2, 3, 16] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(workers), gated(&gate));
        let mut slow: Vec<_> = (0..3 * workers).map(|_| server.client()).collect();
        slow.iter_mut().for_each(|client| client.send_get("/block"));
        gate.wait_entered(1);
        let began = now();
        assert_eq!(server.client().get("/fast").text(), "/fast");
        let took = now() - began;
        assert!(took < millis(2500), "{workers} workers: {took:?}");
        gate.open();
        assert_all_answered(&mut slow);
    }
}

#[test]
#[cfg(feature = "router")]
fn the_router_tells_slow_routes_from_fast_ones_that_look_alike() {
    let gate = Gate::new();
    let (slow, fast) = (gate.clone(), gate.clone());
    let nested = lameduck::Router::new()
        .get("/{name}/report", move |_: Request, _: Context| {
            slow.pass();
            "report"
        })
        .get("/{name}", |_: Request, _: Context| "name");
    let app = lameduck::Router::new().nest("/users", nested).get(
        "/jobs/{name}",
        move |_: Request, _: Context| {
            fast.pass();
            "job"
        },
    );
    let server = TestServer::with(builder().workers(4), app);
    // Each path is new, and all have one route: one of the four workers is kept for others.
    let mut blocked: Vec<_> = ["a", "b", "c", "d", "e"]
        .map(|name| {
            let mut client = server.client();
            client.send_get(&format!("/users/{name}/report"));
            client
        })
        .into();
    gate.wait_entered(3);
    for name in ["f", "g", "h"] {
        let body = server.client().get(&format!("/users/{name}"));
        assert_eq!(body.text(), "name");
    }
    assert_eq!(gate.entered(), 3);
    // A route that is not known to be slow gets the worker that is left.
    let mut job = server.client();
    job.send_get("/jobs/a");
    gate.wait_entered(4);
    gate.open();
    assert_all_answered(&mut blocked);
    assert_eq!(job.read_response().text(), "job");
}

#[test]
fn handlers_that_compute_hold_up_no_other_connection() {
    for workers in [2, 3, 16] {
        let gate = Gate::new();
        let released = gate.clone();
        let server = TestServer::with(
            builder().workers(workers),
            move |request: Request, _: Context| -> Response {
                if request.uri().path() == "/compute" {
                    released.note_entered();
                    while !released.is_open() {
                        std::hint::spin_loop();
                    }
                }
                request.uri().path().to_owned().into_response()
            },
        );
        let mut known = server.used_client("/fast");
        let mut computing: Vec<_> = (0..workers - 1).map(|_| server.client()).collect();
        computing
            .iter_mut()
            .for_each(|client| client.send_get("/compute"));
        gate.wait_entered((workers - 1).min(2));
        assert_served(&server, &mut known);
        gate.open();
        assert_all_answered(&mut computing);
    }
}

#[test]
fn uploads_and_writers_that_wait_for_their_client_hold_no_worker() {
    for workers in [1, 2, 16] {
        let server = TestServer::with(
            builder().workers(workers),
            |mut request: Request, _: Context| -> Response {
                match request.uri().path() {
                    "/upload" => {
                        let read = std::io::copy(request.body_mut(), &mut std::io::sink());
                        read.unwrap().to_string().into_response()
                    }
                    "/write" => Body::writer(|out| {
                        let piece = vec![b'x'; 64 << 10];
                        (0..256).try_for_each(|_| std::io::Write::write_all(out, &piece))
                    })
                    .into_response(),
                    path => path.to_owned().into_response(),
                }
            },
        );
        const LEN: usize = 200 << 10;
        let head = format!("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {LEN}\r\n\r\n");
        // Clients that have sent more than is collected, and then nothing; and clients that read
        // nothing of a long response.
        let mut uploads: Vec<_> = (0..2 * workers).map(|_| server.client()).collect();
        for client in &mut uploads {
            client.send(&head);
            client.send(vec![b'x'; LEN - 1]);
        }
        let mut writers: Vec<_> = (0..2 * workers).map(|_| server.client()).collect();
        for client in &mut writers {
            client.send_get("/write");
        }
        // Each of them is served, although the others wait.
        for _ in 0..20 {
            let mut honest = server.client();
            honest.send(&head);
            honest.send(vec![b'x'; LEN]);
            assert_eq!(honest.read_response().text(), LEN.to_string());
            assert_eq!(server.client().get("/fast").text(), "/fast");
        }
        for client in &mut uploads {
            client.send("x");
            assert_eq!(client.read_response().text(), LEN.to_string());
        }
        for client in &mut writers {
            assert_eq!(client.read_response().body.len(), 16 << 20);
        }
        server.stop_cleanly();
    }
}

/// The length of an upload that is longer than what is collected.
const UPLOAD_LEN: usize = 100 << 10;

fn upload_head() -> String {
    format!("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {UPLOAD_LEN}\r\n\r\n")
}

fn count_upload(mut request: Request, _: Context) -> String {
    std::io::copy(request.body_mut(), &mut std::io::sink())
        .unwrap()
        .to_string()
}

#[test]
fn a_thousand_uploads_beside_a_trickling_one_are_all_answered() {
    let server = TestServer::with(
        builder().workers(2).max_dedicated_threads(100),
        count_upload,
    );
    let head = upload_head();
    let mut trickle = server.client();
    trickle.send(&head);
    trickle.send(vec![b'x'; UPLOAD_LEN - 10]);
    let mut uploads: Vec<_> = (0..1000).map(|_| server.client()).collect();
    for client in &mut uploads {
        client.send(&head);
        client.send(vec![b'x'; UPLOAD_LEN - 1]);
    }
    trickle.send("x");
    for client in &mut uploads {
        client.send("x");
    }
    for client in &mut uploads {
        assert_eq!(client.read_response().text(), UPLOAD_LEN.to_string());
    }
    trickle.send(vec![b'x'; 9]);
    assert_eq!(trickle.read_response().text(), UPLOAD_LEN.to_string());
}

#[test]
fn writers_that_wait_for_something_else_than_their_client_wait_a_while_and_then_all_run() {
    let gate = Gate::new();
    let waits = gate.clone();
    let server = TestServer::with(
        builder().workers(2).queue_timeout(millis(1000)),
        move |request: Request, _: Context| -> Response {
            if request.uri().path() != "/write" {
                return "fine".into_response();
            }
            let waits = waits.clone();
            let write = move |out: &mut lameduck::body::BodyWriter<'_>| {
                waits.pass();
                std::io::Write::write_all(out, b"written")
            };
            Body::writer(write).into_response()
        },
    );
    let mut writers: Vec<_> = (0..6).map(|_| server.client()).collect();
    writers
        .iter_mut()
        .for_each(|client| client.send_get("/write"));
    // As many as there are workers run at once.
    gate.wait_entered(2);
    assert_eq!(server.client().get("/").text(), "fine");
    assert_eq!(gate.entered(), 2);
    gate.wait_entered(6);
    gate.open();
    for client in &mut writers {
        assert_eq!(client.read_response().text(), "written");
    }
    assert_eq!(server.handle().stats().overloaded, 0);
}

#[test]
fn uploads_beyond_the_dedicated_threads_wait_for_a_worker_and_hold_up_no_fast_request() {
    let server = TestServer::with(builder().workers(2).max_dedicated_threads(0), count_upload);
    let head = upload_head();
    let mut uploads: Vec<_> = (0..4).map(|_| server.client()).collect();
    for client in &mut uploads {
        client.send(&head);
        client.send(vec![b'x'; UPLOAD_LEN - 1]);
    }
    for _ in 0..10 {
        assert_eq!(server.client().get("/").text(), "0");
    }
    for client in &mut uploads {
        client.send("x");
    }
    for client in &mut uploads {
        assert_eq!(client.read_response().text(), UPLOAD_LEN.to_string());
    }
}

#[test]
fn with_all_workers_blocked_a_malformed_head_is_refused_at_once() {
    for workers in [1, 4] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(workers), gated(&gate));
        let mut known = server.used_client("/fast");
        let mut blocked = server.block_all(&gate, workers);
        let mut new = server.client();
        for client in [&mut known, &mut new] {
            client.send("GET / HTTP/1.1\r\nHost : test\r\n\r\n");
            assert_eq!(client.read_response().status, 400);
        }
        gate.open();
        assert_all_answered(&mut blocked);
    }
}

#[test]
fn what_came_while_all_workers_were_blocked_is_answered_when_they_are_released() {
    for workers in [1, 4] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(workers), gated(&gate));
        let mut known = server.used_client("/fast");
        let mut half = server.client();
        half.send("GET /fast HTTP/1.1\r\n");
        let mut blocked = server.block_all(&gate, workers);
        known.send(get("/fast").repeat(3));
        let mut new: Vec<_> = (0..100).map(|_| server.client()).collect();
        for client in &mut new {
            client.send(get("/fast").repeat(2));
        }
        half.send("Host: test\r\n\r\n");
        server.wait_accepted(102 + workers as u64);
        gate.open();
        assert_all_answered(&mut blocked);
        for client in &mut new {
            assert_eq!(client.read_response().text(), "/fast");
            assert_eq!(client.read_response().text(), "/fast");
        }
        for _ in 0..3 {
            assert_eq!(known.read_response().text(), "/fast");
        }
        assert_eq!(half.read_response().text(), "/fast");
        server.stop_cleanly();
    }
}

/// The cases of a pipeline: the number of workers, and whether the calls at the gate are expected
/// to be slow.
const PIPELINES: [(usize, bool); 4] = [(1, false), (1, true), (2, false), (2, true)];

/// Returns a client that has sent four requests at once, the third of which waits at the gate.
fn pipelined(workers: usize, expected_slow: bool, first: &str) -> (TestServer, Gate, Client) {
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(workers), gated(&gate));
    if expected_slow {
        assert_eq!(server.client().get("/gated/slow").status, 200);
    }
    let mut client = server.client();
    client.send(
        [first, "/second", "/gated/block", "/last"]
            .map(get)
            .concat(),
    );
    gate.wait_entered(1);
    (server, gate, client)
}

#[test]
fn answers_to_earlier_pipelined_requests_do_not_wait_for_a_later_one() {
    for (workers, expected_slow) in PIPELINES {
        let (server, gate, mut client) = pipelined(workers, expected_slow, "/first");
        for path in ["/first", "/second"] {
            assert_eq!(
                client.read_response().text(),
                path,
                "{workers} workers, expected slow: {expected_slow}"
            );
        }
        client.expect_nothing_yet();
        gate.open();
        assert_eq!(client.read_response().text(), "/gated/block");
        assert_eq!(client.read_response().text(), "/last");
        server.stop_cleanly();
    }
}

#[test]
fn the_answer_of_a_slow_pipelined_request_does_not_wait_for_the_next_slow_one() {
    for (workers, expected_slow) in PIPELINES {
        let (server, gate, mut client) = pipelined(workers, expected_slow, "/gated/slow");
        assert_eq!(
            client.read_response().text(),
            "/gated/slow",
            "{workers} workers, expected slow: {expected_slow}"
        );
        assert_eq!(client.read_response().text(), "/second");
        gate.open();
        assert_eq!(client.read_response().text(), "/gated/block");
        assert_eq!(client.read_response().text(), "/last");
        server.stop_cleanly();
    }
}

#[test]
fn an_answer_does_not_wait_for_the_body_of_the_next_request() {
    let server = TestServer::with(builder().workers(1), hello);
    let mut client = server.client();
    client.send(get("/") + "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n12");
    assert_eq!(client.read_response().text(), "hello");
    client.send("345");
    assert_eq!(client.read_response().text(), "hello");
}

#[test]
fn an_answer_does_not_wait_for_a_later_request_that_finds_the_lane_of_slow_handlers_full() {
    let gate = Gate::new();
    let server = TestServer::with(builder().workers(2), gated(&gate));
    assert_eq!(server.client().get("/gated/slow").status, 200);
    let mut blocked = server.block(&gate, "/gated/block");
    let mut client = server.client();
    client.send([get("/first"), get("/gated/block")].concat());
    assert_eq!(client.read_response().text(), "/first");
    gate.open();
    assert_eq!(client.read_response().text(), "/gated/block");
    assert_eq!(blocked.read_response().text(), "/gated/block");
}

#[test]
fn an_answer_does_not_wait_for_a_later_request_that_finds_all_workers_blocked() {
    for workers in [1, 4] {
        let gate = Gate::new();
        let server = TestServer::with(builder().workers(workers), gated(&gate));
        let mut client = server.client();
        // The second head becomes complete when no worker is left, so the caretaker reads it.
        client.send(get("/first") + "GET /second HTTP/1.1\r\n");
        assert_eq!(client.read_response().text(), "/first");
        let mut blocked = server.block_all(&gate, workers);
        client.send("Host: test\r\n\r\n");
        let mut malformed = server.client();
        malformed.send("bad\r\n\r\n");
        assert_eq!(malformed.read_response().status, 400);
        client.expect_nothing_yet();
        gate.open();
        assert_all_answered(&mut blocked);
        assert_eq!(client.read_response().text(), "/second");
    }
}

#[test]
fn a_blocked_handler_holds_up_no_route_with_a_similar_name() {
    let gate = Gate::new();
    let server = TestServer::start(gated(&gate));
    let mut blocked = server.block(&gate, "/v1/block");
    let mut others: Vec<_> = ["/v2", "/v3", "/a1", "/v10"]
        .iter()
        .map(|path| (*path, server.client()))
        .collect();
    for (path, client) in &mut others {
        client.send_get(path);
        assert_eq!(client.read_response().text(), *path);
    }
    gate.open();
    assert_eq!(blocked.read_response().status, 200);
}

#[test]
fn a_handler_that_was_slow_once_is_not_held_up_by_a_blocked_one() {
    let gate = Gate::new();
    let server = TestServer::start(gated(&gate));
    let mut known = server.used_client("/fast");
    // One call in a thousand is slow, as if the machine had been busy with something else.
    for _ in 0..1000 {
        assert_eq!(known.get("/fast").status, 200);
    }
    assert_eq!(known.get("/fast/slow").status, 200);
    let mut blocked = server.block(&gate, "/block");
    assert_served(&server, &mut known);
    gate.open();
    assert_eq!(blocked.read_response().status, 200);
}

/// A reader that waits at a gate before it has its first byte.
struct GatedReader(Gate, bool);

impl Read for GatedReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if std::mem::replace(&mut self.1, true) {
            return Ok(0);
        }
        self.0.pass();
        buffer[..4].copy_from_slice(b"read");
        Ok(4)
    }
}

#[test]
fn a_body_that_blocks_holds_up_no_other_connection() {
    for kind in ["reader", "writer"] {
        let gate = Gate::new();
        let (of_reader, of_writer) = (gate.clone(), gate.clone());
        let server =
            TestServer::start(
                move |request: Request, _: Context| match request.uri().path() {
                    "/reader" => {
                        Body::reader(GatedReader(of_reader.clone(), false)).into_response()
                    }
                    "/writer" => {
                        let gate = of_writer.clone();
                        let write = move |out: &mut lameduck::body::BodyWriter<'_>| {
                            gate.pass();
                            std::io::Write::write_all(out, b"read")
                        };
                        Body::writer(write).into_response()
                    }
                    path => path.to_owned().into_response(),
                },
            );
        let mut known = server.used_client("/fast");
        let mut blocked = server.block(&gate, &format!("/{kind}"));
        assert_served(&server, &mut known);
        gate.open();
        assert_eq!(blocked.read_response().text(), "read");
        server.stop_cleanly();
    }
}
