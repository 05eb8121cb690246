//! What the server says about its stop: the line of JSON that `lameduck demo --json` ends with.

use std::collections::HashSet;

use crate::cli::prove::tally::{Outcome, Tally};

/// The parts of a server's report that its clients can check.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ServerReport {
    accepted: u64,
    answered: u64,
    /// Requests, by method and target, that crossed the end of a connection, and whose client could
    /// not expect that.
    pub(super) raced: HashSet<String>,
    /// Requests that it says were not answered, for whatever reason.
    pub(super) named: HashSet<String>,
    /// The number of connections that it says were cut in the middle of a request.
    cut_connections: usize,
    /// What it says does not come out.
    faults: Vec<String>,
    pub(super) exit_code: i32,
}

impl ServerReport {
    /// Finds the report in what a server has printed.
    pub(super) fn find(stdout: &str) -> Option<Self> {
        let report = stdout.lines().rev().find_map(Json::parse)?;
        let unanswered = report.get("unanswered").items();
        let raced = unanswered
            .iter()
            .filter(|request| *request.get("fate") == Json::Text("raced".to_owned()));
        let stuck = report
            .get("stuck")
            .items()
            .iter()
            .map(|stuck| stuck.get("request"));
        Some(Self {
            accepted: report.get("accepted").number(),
            answered: report.get("answered").number(),
            raced: raced.filter_map(Json::request).collect(),
            named: unanswered
                .iter()
                .chain(stuck)
                .filter_map(Json::request)
                .collect(),
            cut_connections: report.get("cut_connections").items().len(),
            faults: report
                .get("faults")
                .items()
                .iter()
                .filter_map(Json::text)
                .map(str::to_owned)
                .collect(),
            exit_code: i32::try_from(report.get("exit_code").number()).unwrap_or(i32::MAX),
        })
    }

    /// Where it does not agree with what the clients know, once that is settled.
    pub(super) fn contradictions(&self, clients: &Tally) -> Vec<String> {
        let read = clients.total(Outcome::Answered);
        // Of these a client cannot know whether the server counts them as answered.
        let unknown = clients.total(Outcome::Lost) + clients.total(Outcome::Unavailable);
        let raced = clients.total(Outcome::Raced);
        let mut contradictions: Vec<_> = self.faults.clone();
        if self.accepted < clients.connections {
            let spoke = clients.connections;
            contradictions.push(format!(
                "the report has {} connections, clients spoke on {spoke}",
                self.accepted
            ));
        }
        if !(read..=read + unknown).contains(&self.answered) {
            let or_more = if unknown > 0 {
                format!(" to {}", read + unknown)
            } else {
                String::new()
            };
            contradictions.push(format!(
                "the report has {} answers, clients read {read}{or_more}",
                self.answered
            ));
        }
        // A request of which the server has read a part has no name there.
        let unavailable = clients.unavailable.iter();
        let untold = unavailable.filter(|request| !self.named.contains(*request));
        contradictions.extend(untold.skip(self.cut_connections).map(|request| {
            format!("answered with 503, which the report does not tell: {request}")
        }));
        if self.raced.len() as u64 != raced {
            contradictions.push(format!(
                "the report names {} raced requests, clients know of {raced}",
                self.raced.len()
            ));
        }
        if self.exit_code != 0 && raced + unknown == 0 {
            contradictions.push(format!(
                "the report says exit code {}, clients miss nothing",
                self.exit_code
            ));
        }
        contradictions
    }
}

/// A JSON value, of which there is a parser below that reads valid ones.
#[derive(Debug, PartialEq)]
enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    /// Reads an object and nothing else.
    fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim();
        let value =
            Self::parse_value(&mut rest).filter(|value| matches!(value, Self::Object(_)))?;
        rest.trim().is_empty().then_some(value)
    }

    fn parse_value(rest: &mut &str) -> Option<Self> {
        *rest = rest.trim_start();
        match rest.chars().next()? {
            '{' => Self::parse_list(rest, '}', |rest| {
                let Self::Text(key) = Self::parse_value(rest)? else {
                    return None;
                };
                take(rest, ":")?;
                Some((key, Self::parse_value(rest)?))
            })
            .map(Self::Object),
            '[' => Self::parse_list(rest, ']', Self::parse_value).map(Self::List),
            '"' => Self::parse_text(rest),
            '0'..='9' | '-' => {
                let end = rest
                    .find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c))
                    .unwrap_or(rest.len());
                let number = rest[..end].parse().ok()?;
                *rest = &rest[end..];
                Some(Self::Number(number))
            }
            _ => [
                ("null", Self::Null),
                ("true", Self::Bool(true)),
                ("false", Self::Bool(false)),
            ]
            .into_iter()
            .find_map(|(word, value)| take(rest, word).map(|()| value)),
        }
    }

    fn parse_list<T>(
        rest: &mut &str,
        close: char,
        item: impl Fn(&mut &str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut items = Vec::new();
        *rest = rest[1..].trim_start();
        if rest.starts_with(close) {
            *rest = &rest[1..];
            return Some(items);
        }
        loop {
            items.push(item(rest)?);
            *rest = rest.trim_start();
            let separator = rest.chars().next()?;
            *rest = &rest[separator.len_utf8()..];
            match separator {
                ',' => {}
                separator => return (separator == close).then_some(items),
            }
        }
    }

    fn parse_text(rest: &mut &str) -> Option<Self> {
        let mut text = String::new();
        let mut chars = rest[1..].chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => text.push(match chars.next()? {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'u' => {
                        let digits: String = chars.by_ref().take(4).collect();
                        char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
                    }
                    c => c,
                }),
                c => text.push(c),
            }
        }
        *rest = chars.as_str();
        Some(Self::Text(text))
    }

    /// What an object has under `key`. What is not there is null.
    fn get(&self, key: &str) -> &Self {
        match self {
            Self::Object(pairs) => pairs
                .iter()
                .find(|pair| pair.0 == key)
                .map_or(&Self::Null, |pair| &pair.1),
            _ => &Self::Null,
        }
    }

    fn items(&self) -> &[Self] {
        if let Self::List(items) = self {
            items
        } else {
            &[]
        }
    }

    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self {
            Some(text)
        } else {
            None
        }
    }

    fn number(&self) -> u64 {
        if let Self::Number(number) = self {
            *number as u64
        } else {
            0
        }
    }

    /// The method and target that an object has.
    fn request(&self) -> Option<String> {
        match (self.get("method"), self.get("target")) {
            (Self::Text(method), Self::Text(target)) => Some(format!("{method} {target}")),
            _ => None,
        }
    }
}

/// Takes `word`, and space before it.
fn take(rest: &mut &str, word: &str) -> Option<()> {
    *rest = rest.trim_start().strip_prefix(word)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_found_behind_other_output() {
        let line = r#"{"answered":42, "accepted" : 7, "x": [[], {}, null, -1.5e3, "\u0041\"{"],
            "unanswered":[{"method":"GET","target":"/a","fate":"raced"},
            {"method":"GET","target":"/after","fate":"after_close"},
            {"method":"POST","target":"/b","fate":"cut","bytes_sent":3}],
            "stuck":[{"request":{"method":"PUT","target":"/c"}},{"request":null}],
            "cut_connections":[{"peer":null}],"faults":["1 connection did not end"],"exit_code":3}"#
            .replace('\n', " ");
        let report = ServerReport::find(&format!("starting\n{{}} {{\n{line}\n")).unwrap();
        assert_eq!(
            (report.accepted, report.answered, report.exit_code),
            (7, 42, 3)
        );
        assert_eq!(report.faults, ["1 connection did not end"]);
        assert_eq!(report.cut_connections, 1);
        assert_eq!(report.raced, HashSet::from(["GET /a".to_owned()]));
        let named = ["GET /a", "GET /after", "POST /b", "PUT /c"];
        assert_eq!(report.named, HashSet::from(named.map(str::to_owned)));
    }

    #[test]
    fn what_is_not_json_is_no_report() {
        for text in [
            "",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1]",
            "{} {}",
            "{\"a\":\"\\u12\"}",
        ] {
            assert_eq!(Json::parse(text), None, "{text}");
        }
    }
}
