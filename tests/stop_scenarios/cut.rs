//! A response that cannot be finished is cut visibly: no client takes a part for the complete
//! response, and the report names each request.

use std::io::{Read, Write};
use std::time::Duration;

use lameduck::body::BodyWriter;
use lameduck::report::Fate;
use lameduck::{Body, Context, Report, Request};

use super::app;
use super::support::{
    Client, Delimited, End, Gate, LIMIT, TestServer, builder, eventually, get, millis, pass_time,
};

#[test]
fn a_chunked_response_that_is_cut_lacks_its_last_chunk() {
    let (mut client, report) = cut_after_first_part(&get("/chunked"));
    let (bytes, end) = client.drain();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with("a\r\nfirst part\r\n"), "{text}");
    assert_eq!(end, End::Reset);
    let [cut] = &crate::support::cut(&report)[..] else {
        panic!("{report}")
    };
    assert_eq!(
        (cut.target.path(), cut.fate),
        (
            "/chunked",
            Fate::Cut {
                bytes_sent: text.len() as u64
            }
        )
    );
}

#[test]
fn a_response_without_a_length_that_is_cut_ends_with_a_reset() {
    let (mut client, report) = cut_after_first_part("GET /old HTTP/1.0\r\n\r\n");
    let incomplete = client.expect_incomplete();
    // With a FIN the response would look complete.
    assert_eq!(incomplete.end, End::Reset);
    let answer = incomplete.answer.unwrap();
    assert_eq!(
        (answer.delimited, answer.text()),
        (Delimited::ByClose, "first part")
    );
    assert_eq!(crate::support::cut(&report).len(), 1, "{report}");
}

#[test]
fn a_response_that_has_begun_and_ends_within_cut_grace_arrives_complete() {
    let (entered, wait_entered) = crossbeam_channel::unbounded();
    let description = builder()
        .workers(2)
        .grace_period(millis(50))
        .cut_grace(LIMIT);
    let server = TestServer::with(description, move |_: Request, context: Context| {
        let entered = entered.clone();
        Body::writer(move |out: &mut BodyWriter<'_>| {
            out.write_all(b"first part")?;
            out.flush()?;
            entered.send(()).unwrap();
            let _ = context.sleep(LIMIT);
            out.write_all(b", last part")
        })
    });
    let mut client = server.client();
    client.send_get("/heeds");
    wait_entered.recv_timeout(LIMIT).unwrap();
    let report = server.stop();
    assert_eq!(client.read_response().text(), "first part, last part");
    assert!(report.is_clean(), "{report}");
    assert!(report.took < LIMIT / 2, "{report}");
}

#[test]
fn of_a_pipelined_batch_whose_second_handler_is_cut_the_first_answer_comes_before_the_503() {
    for cut_at_once in [true, false] {
        for _ in 0..5 {
            let gate = Gate::new();
            let server = TestServer::with(builder().workers(2).cut_grace(millis(50)), app(&gate));
            let mut client = server.client();
            client.send(["/first", "/second/block", "/third"].map(get).concat());
            gate.wait_entered(1);
            let report = if cut_at_once {
                server.handle().close()
            } else {
                server.handle().shutdown_within(millis(50))
            };
            gate.open();
            let first = client.read_response();
            assert_eq!(
                (first.status, first.text(), first.closes()),
                (200, "/first", false)
            );
            let second = client.read_response();
            assert_eq!((second.status, second.closes()), (503, true));
            client.expect_eof();
            let [cut] = &crate::support::cut(&report)[..] else {
                panic!("{report}")
            };
            assert_eq!(
                (cut.target.path(), cut.fate),
                ("/second/block", Fate::Answered503)
            );
        }
    }
}

#[test]
fn answers_that_a_client_has_not_taken_are_each_named_when_they_are_cut() {
    let server = TestServer::with(
        builder().cut_grace(Duration::ZERO),
        |request: Request, _: Context| format!("{:>10000}", request.uri().path()),
    );
    let mut client = Client::connect_narrow(server.local_addr());
    client.send((0..100).map(|n| get(&format!("/{n}"))).collect::<String>());
    // The connection is stuck: the first answers fill the kernel's buffers, and later ones wait in
    // the server.
    let answered = || server.handle().stats().answered;
    let mut before = 0;
    eventually("no more is answered", || {
        pass_time(millis(20));
        std::mem::replace(&mut before, answered()) == answered() && before > 0
    });
    let report = server.handle().shutdown_within(Duration::ZERO);
    let answered: u64 = report.answered.iter().map(|(_, n)| n).sum();
    assert!(
        !report.is_clean() && crate::support::cut(&report).len() > 1,
        "{report}"
    );
    let first = answered - crate::support::cut(&report).len() as u64;
    for (n, cut) in (first..answered).zip(&crate::support::cut(&report)) {
        assert_eq!(cut.target.path(), format!("/{n}"), "{report}");
        let Fate::Cut { bytes_sent } = cut.fate else {
            panic!("{report}")
        };
        assert!(bytes_sent == 0 || n == first, "{report}");
    }
    let unread: Vec<_> = crate::support::never_started(&report)
        .iter()
        .map(|cut| cut.target.path().to_owned())
        .collect();
    assert_eq!(
        unread,
        (answered..100).map(|n| format!("/{n}")).collect::<Vec<_>>(),
        "{report}"
    );
}

#[test]
fn requests_after_a_response_that_is_cut_are_each_named_whoever_has_the_connection() {
    const LARGE: usize = 30 << 20;
    type Make = fn() -> Body;
    let bodies: [(&str, Make); 4] = [
        ("bytes", || Body::from(vec![b'x'; LARGE])),
        ("reader", || {
            Body::reader(std::io::repeat(b'x').take(LARGE as u64))
        }),
        ("writer", || {
            Body::writer(|out| out.write_all(&vec![b'x'; LARGE]))
        }),
        ("stream", || {
            Body::stream(|out| out.write_all(&vec![b'x'; LARGE]))
        }),
    ];
    for (kind, body) in bodies {
        let server = TestServer::with(
            builder().workers(2).cut_grace(millis(50)),
            move |_: Request, _: Context| body(),
        );
        let mut client = Client::connect_narrow(server.local_addr());
        client.send((0..6).map(|n| get(&format!("/{n}"))).collect::<String>());
        eventually("the first response has begun", || client.is_readable());
        let report = server.handle().shutdown_within(millis(20));
        let named: Vec<_> = report
            .unanswered
            .iter()
            .map(|request| {
                let is_cut = matches!(request.fate, Fate::Cut { bytes_sent } if bytes_sent > 0);
                (request.target.path(), is_cut, request.fate == Fate::Unread)
            })
            .collect();
        assert_eq!(
            named,
            [
                ("/0", true, false),
                ("/1", false, true),
                ("/2", false, true),
                ("/3", false, true),
                ("/4", false, true),
                ("/5", false, true),
            ],
            "{kind}: {report}"
        );
    }
}

/// Cuts the response to `request` when the client has got the text `first part` of it.
fn cut_after_first_part(request: &str) -> (Client, Report) {
    let gate = Gate::new();
    let at_the_gate = gate.clone();
    let description = builder()
        .workers(2)
        .grace_period(millis(50))
        .cut_grace(millis(100));
    let server = TestServer::with(description, move |_: Request, _: Context| {
        let gate = at_the_gate.clone();
        Body::writer(move |out: &mut BodyWriter<'_>| {
            out.write_all(b"first part")?;
            out.flush()?;
            gate.pass();
            // The closure has nothing more to say, and does not know of the cut.
            Ok(())
        })
    });
    let mut client = server.client();
    client.send(request);
    gate.wait_entered(1);
    let report = server.stop();
    gate.open();
    (client, report)
}
