//! The report as one line of JSON, for machines. It is written by hand, because nothing else in the
//! crate needs a serializer.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use crate::lifecycle::ledger::Requests;
use crate::lifecycle::report::{HookOutcome, ListenersReport, Report};
use crate::lifecycle::unanswered::{Fate, UnansweredRequest};

impl Report {
    /// Returns the report as one line of JSON.
    ///
    /// Its members have the names of the report's fields; a time has `_ms` after its name and is in
    /// milliseconds. `clean` and `exit_code` are what [`is_clean`](Self::is_clean) and
    /// [`exit_code`](Self::exit_code) return.
    #[must_use]
    pub fn to_json(&self) -> String {
        let phases = self.phases.iter().map(|(phase, took)| {
            let answered = self.answered_in(*phase);
            object(&[
                ("phase", text(&phase.to_string())),
                ("took_ms", millis(*took)),
                ("answered", answered.to_string()),
            ])
        });
        let closed: Vec<_> = self
            .closed
            .iter()
            .map(|(reason, n)| (format!("{reason:?}"), n.to_string()))
            .collect();
        let closed: Vec<_> = closed
            .iter()
            .map(|(reason, n)| (reason.as_str(), n.clone()))
            .collect();
        let hooks = self.hooks.iter().map(|hook| {
            let outcome = match hook.outcome {
                HookOutcome::Done => "done",
                HookOutcome::Panicked => "panicked",
                HookOutcome::Late => "late",
            };
            object(&[
                ("name", text(&hook.name)),
                ("took_ms", millis(hook.took)),
                ("outcome", text(outcome)),
            ])
        });
        let stuck = self.stuck.iter().map(|stuck| {
            let request = stuck
                .request
                .as_ref()
                .map_or_else(null, |(method, target, age)| {
                    object(&[
                        ("method", text(method.as_str())),
                        ("target", text(&target.to_string())),
                        ("age_ms", millis(*age)),
                    ])
                });
            object(&[("thread", text(&stuck.thread)), ("request", request)])
        });
        let cut_connections = self.cut_connections.iter();
        let cut_connections = cut_connections.map(|cut| object(&[("peer", peer(cut.peer))]));
        object(&[
            ("cause", text(&self.cause.to_string())),
            ("took_ms", millis(self.took)),
            ("phases", array(phases)),
            ("accepted", self.accepted.to_string()),
            (
                "answered",
                self.answered
                    .iter()
                    .map(|(_, n)| n)
                    .sum::<u64>()
                    .to_string(),
            ),
            ("closed", object(&closed)),
            ("requests", requests(&self.requests)),
            ("unanswered", array(self.unanswered.iter().map(unanswered))),
            ("unlisted", self.unlisted.to_string()),
            ("cut_connections", array(cut_connections)),
            (
                "upgraded",
                object(&[
                    ("told", self.upgraded.told.to_string()),
                    ("finished", self.upgraded.finished.to_string()),
                    ("cut", self.upgraded.cut.to_string()),
                ]),
            ),
            ("hooks", array(hooks)),
            ("stuck", array(stuck)),
            ("listeners", listeners(&self.listeners)),
            ("faults", array(self.faults.iter().map(|fault| text(fault)))),
            ("clean", self.is_clean().to_string()),
            ("exit_code", self.exit_code().to_string()),
        ])
    }
}

fn unanswered(request: &UnansweredRequest) -> String {
    let mut members = vec![
        ("peer", peer(request.peer)),
        ("method", text(request.method.as_str())),
        ("target", text(&request.target.to_string())),
        ("age_ms", millis(request.age)),
        ("fate", text(request.fate.name())),
    ];
    if let Fate::Cut { bytes_sent } | Fate::UpgradeCut { bytes_sent } = request.fate {
        members.push(("bytes_sent", bytes_sent.to_string()));
    }
    object(&members)
}

fn requests(requests: &Requests) -> String {
    object(&[
        ("begun", requests.begun.to_string()),
        ("answered", requests.answered.to_string()),
        ("named", requests.named.to_string()),
        ("broken_off", requests.broken_off.to_string()),
        ("lost", requests.lost.to_string()),
    ])
}

fn peer(addr: Option<SocketAddr>) -> String {
    addr.map_or_else(null, |addr| text(&addr.to_string()))
}

fn listeners(report: &ListenersReport) -> String {
    object(&[
        ("accept_paused_ms", millis(report.accept_paused)),
        ("syn_gate_ms", millis(report.syn_gate)),
        ("without_syn_gate", report.without_syn_gate.to_string()),
        ("backlog_served", report.backlog_served.to_string()),
        ("backlog_reset", report.backlog_reset.to_string()),
        (
            "errors",
            array(report.errors.iter().map(|error| text(error))),
        ),
    ])
}

fn object(members: &[(&str, String)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("{}:{value}", text(name)))
        .collect();
    format!("{{{}}}", members.join(","))
}

fn array(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(","))
}

fn millis(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1e3)
}

fn null() -> String {
    "null".to_owned()
}

/// A JSON string (RFC 8259 section 7).
fn text(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(text("a\"b\\c\nd"), "\"a\\\"b\\\\c\\u000ad\"");
    }

    #[test]
    fn an_empty_report_is_one_object() {
        let json = Report::new(crate::lifecycle::phase::StopCause::Handle).to_json();
        assert!(
            json.starts_with("{\"cause\":\"a call of its handle\",\"took_ms\":0.000,\"phases\":[]"),
            "{json}"
        );
        assert!(
            json.ends_with("\"faults\":[],\"clean\":true,\"exit_code\":0}"),
            "{json}"
        );
    }
}
