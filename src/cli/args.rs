//! The command line: makes a [`Command`] of its words, or one line that says what is wrong.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use lexopt::Parser;
use lexopt::prelude::*;
use rustix::process::Signal;

use crate::cli::Failure;

/// A command line that was understood.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// There were no words.
    Nothing,
    /// Print this text: a help text, or the version.
    Print(&'static str),
    /// Run `lameduck demo`.
    Demo(DemoOptions),
    /// Run `lameduck prove`.
    Prove(ProveOptions),
    /// Become the command, after asking the kernel for SIGTERM once the process with this number is
    /// gone. `prove` starts its servers in this way.
    Tethered(i32, Vec<OsString>),
}

/// The options of `lameduck demo`.
#[derive(Debug, PartialEq)]
pub(crate) struct DemoOptions {
    /// The addresses, at least one.
    pub(crate) listen: Vec<String>,
    /// `None` is the library's default.
    pub(crate) workers: Option<usize>,
    pub(crate) lame_duck: Duration,
    pub(crate) grace_period: Duration,
    pub(crate) idle_grace: Duration,
    /// Whether the report is printed as JSON.
    pub(crate) json: bool,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            workers: None,
            lame_duck: Duration::ZERO,
            grace_period: Duration::from_secs(25),
            idle_grace: Duration::from_millis(1300),
            json: false,
        }
    }
}

/// The options of `lameduck prove`.
#[derive(Debug, PartialEq)]
pub(crate) struct ProveOptions {
    pub(crate) stops: u32,
    /// `None` is another seed each time.
    pub(crate) seed: Option<u64>,
    pub(crate) rtt: Duration,
    /// `None` is loopback.
    pub(crate) link: Option<Link>,
    /// The command line of another server.
    pub(crate) target: Option<String>,
    pub(crate) signal: Signal,
}

impl Default for ProveOptions {
    fn default() -> Self {
        Self {
            stops: 20,
            seed: None,
            rtt: Duration::ZERO,
            link: None,
            target: None,
            signal: Signal::TERM,
        }
    }
}

/// A network between the clients and the servers of `lameduck prove`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Link {
    pub(crate) round_trip: Duration,
    /// The probability with which a packet is lost.
    pub(crate) loss: f64,
}

impl fmt::Display for Link {
    /// Writes the link as `--link` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded, because 0.07 * 100.0 is not quite 7.
        let percent = (self.loss * 1e6).round() / 1e4;
        write!(f, "{}ms,{percent}%", self.round_trip.as_millis())
    }
}

/// Reads the command line.
pub(crate) fn parse(mut arguments: Parser) -> Result<Command, Failure> {
    let wrong = |problem: String| Failure::Usage {
        command: PROGRAM,
        problem,
    };
    match arguments.next().map_err(|error| wrong(error.to_string()))? {
        None => Ok(Command::Nothing),
        Some(Short('h') | Long("help")) => Ok(Command::Print(HELP)),
        Some(Short('V') | Long("version")) => Ok(Command::Print(VERSION)),
        Some(Value(command)) => match command.to_str() {
            Some("demo") => parse_demo(arguments).map_err(|error| Failure::Usage {
                command: DEMO,
                problem: error.to_string(),
            }),
            Some("prove") => parse_prove(arguments).map_err(|error| Failure::Usage {
                command: PROVE,
                problem: error.to_string(),
            }),
            _ => Err(wrong(format!("unknown command {command:?}"))),
        },
        Some(option) => Err(wrong(option.unexpected().to_string())),
    }
}

/// Reads the words after `demo`. If an option is given twice, the last value counts; `--listen`
/// adds up.
fn parse_demo(mut arguments: Parser) -> Result<Command, lexopt::Error> {
    let mut options = DemoOptions::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Print(DEMO_HELP)),
            Long("listen") => options.listen.push(arguments.value()?.string()?),
            Long("workers") => options.workers = Some(workers("--workers", arguments.value()?)?),
            Long("lame-duck") => options.lame_duck = period("--lame-duck", arguments.value()?)?,
            Long("grace-period") => {
                options.grace_period = period("--grace-period", arguments.value()?)?
            }
            Long("idle-grace") => options.idle_grace = period("--idle-grace", arguments.value()?)?,
            Long("json") => options.json = true,
            _ => return Err(argument.unexpected()),
        }
    }
    if options.listen.is_empty() {
        options.listen.push("127.0.0.1:8080".to_owned());
    }
    Ok(Command::Demo(options))
}

/// Reads the words after `prove`.
fn parse_prove(mut arguments: Parser) -> Result<Command, lexopt::Error> {
    let mut options = ProveOptions::default();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Print(PROVE_HELP)),
            Long("stops") => options.stops = stops("--stops", arguments.value()?)?,
            Long("seed") => options.seed = Some(arguments.value()?.parse()?),
            Long("rtt") => options.rtt = period("--rtt", arguments.value()?)?,
            Long("link") => options.link = Some(link("--link", arguments.value()?)?),
            Long("target") => options.target = Some(arguments.value()?.string()?),
            Long("signal") => options.signal = signal("--signal", arguments.value()?)?,
            Long("tethered") => {
                let parent = arguments.value()?.parse()?;
                return Ok(Command::Tethered(parent, arguments.raw_args()?.collect()));
            }
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Command::Prove(options))
}

fn stops(option: &str, value: OsString) -> Result<u32, lexopt::Error> {
    let value = value.string()?;
    let stops = value.parse().ok().filter(|stops| *stops > 0);
    stops.ok_or_else(|| format!("{option}: {value:?} is not a number of stops, 1 or more").into())
}

/// Reads a link: the round trip time, and after a comma the loss in percent.
fn link(option: &str, value: OsString) -> Result<Link, lexopt::Error> {
    let value = value.string()?;
    let (round_trip, loss) = value.split_once(',').unwrap_or((&value, "0%"));
    let link = duration(round_trip)
        .filter(|round_trip| *round_trip <= ROUND_TRIP_MAX)
        .zip(percentage(loss).filter(|loss| *loss <= LOSS_MAX))
        .map(|(round_trip, loss)| Link { round_trip, loss });
    link.ok_or_else(|| {
        let problem = "is not a link such as 25ms, 25ms,1% or 80ms,0.5%, with at most 2s,30%";
        format!("{option}: {value:?} {problem}").into()
    })
}

/// Reads a percentage as a fraction of 1.
fn percentage(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?;
    let is_number = number.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let percent: f64 = number.parse().ok().filter(|_| is_number)?;
    Some(percent / 100.0)
}

fn signal(option: &str, value: OsString) -> Result<Signal, lexopt::Error> {
    match value.string()?.as_str() {
        "TERM" => Ok(Signal::TERM),
        "QUIT" => Ok(Signal::QUIT),
        "INT" => Ok(Signal::INT),
        value => Err(format!("{option}: {value:?} is not TERM, QUIT or INT").into()),
    }
}

fn workers(option: &str, value: OsString) -> Result<usize, lexopt::Error> {
    let value = value.string()?;
    let workers = value
        .parse()
        .ok()
        .filter(|workers| (1..=MAX_WORKERS).contains(workers));
    workers.ok_or_else(|| {
        format!("{option}: {value:?} is not a number of threads from 1 to {MAX_WORKERS}").into()
    })
}

fn period(option: &str, value: OsString) -> Result<Duration, lexopt::Error> {
    let value = value.string()?;
    duration(&value).ok_or_else(|| {
        format!("{option}: {value:?} is not a duration such as 500ms, 10s, 2m, 1h or 0").into()
    })
}

/// Reads a duration: a whole number and its unit. Zero is the only number that needs no unit.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(60 * 60).map(Duration::from_secs),
        _ => None,
    }
}

/// The longest round trip time and the greatest loss of a link. TCP gets little through beyond them.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);
const LOSS_MAX: f64 = 0.3;

/// The largest number of workers. A thread has several memory mappings, and Linux allows a process
/// 65530 of them by default.
const MAX_WORKERS: usize = 10_000;

/// The commands that have a `--help`.
const PROGRAM: &str = "lameduck";
pub(crate) const DEMO: &str = "lameduck demo";
const PROVE: &str = "lameduck prove";

pub(crate) const HELP: &str = include_str!("help.txt");
const DEMO_HELP: &str = include_str!("demo-help.txt");
const PROVE_HELP: &str = include_str!("prove-help.txt");
const VERSION: &str = concat!("lameduck ", env!("CARGO_PKG_VERSION"), "\n");

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, String> {
        parse(Parser::from_args(words)).map_err(|failure| failure.to_string())
    }

    #[track_caller]
    fn check_demo(words: &[&str], expected: DemoOptions) {
        let words: Vec<_> = ["demo"].iter().chain(words).copied().collect();
        assert_eq!(parse_words(&words), Ok(Command::Demo(expected)));
    }

    #[track_caller]
    fn check_refused(words: &[&str], expected: &str) {
        assert_eq!(parse_words(words), Err(expected.to_owned()));
    }

    fn listen(addrs: &[&str]) -> DemoOptions {
        DemoOptions {
            listen: addrs.iter().map(|&addr| addr.to_owned()).collect(),
            ..DemoOptions::default()
        }
    }

    #[test]
    fn help_and_version_are_printed() {
        for (words, text) in [
            (["--help"].as_slice(), HELP),
            (&["-h"], HELP),
            (&["--version"], VERSION),
            (&["-V"], VERSION),
            (&["demo", "--help"], DEMO_HELP),
            (&["demo", "--workers", "3", "-h"], DEMO_HELP),
            (&["prove", "--help"], PROVE_HELP),
        ] {
            assert_eq!(parse_words(words), Ok(Command::Print(text)), "{words:?}");
        }
        assert_eq!(parse_words(&[]), Ok(Command::Nothing));
    }

    #[test]
    fn demo_alone_listens_on_loopback() {
        check_demo(&[], listen(&["127.0.0.1:8080"]));
    }

    #[test]
    fn each_listen_adds_an_address() {
        check_demo(
            &["--listen", "[::1]:8080", "--listen=unix:/tmp/a"],
            listen(&["[::1]:8080", "unix:/tmp/a"]),
        );
    }

    #[test]
    fn every_option_of_demo_is_read() {
        let words = [
            "--listen=[::]:80",
            "--workers=3",
            "--lame-duck=5s",
            "--grace-period",
            "1m",
            "--idle-grace",
            "0",
        ];
        check_demo(
            &words,
            DemoOptions {
                workers: Some(3),
                lame_duck: Duration::from_secs(5),
                grace_period: Duration::from_secs(60),
                idle_grace: Duration::ZERO,
                ..listen(&["[::]:80"])
            },
        );
    }

    #[test]
    fn every_option_of_prove_is_read() {
        assert_eq!(
            parse_words(&["prove"]),
            Ok(Command::Prove(ProveOptions::default()))
        );
        let words = [
            "prove",
            "--stops=200",
            "--seed",
            "7",
            "--rtt=5ms",
            "--link=25ms,1%",
            "--target",
            "server {port} -q",
            "--signal=QUIT",
        ];
        let options = ProveOptions {
            stops: 200,
            seed: Some(7),
            rtt: Duration::from_millis(5),
            link: Some(Link {
                round_trip: Duration::from_millis(25),
                loss: 0.01,
            }),
            target: Some("server {port} -q".to_owned()),
            signal: Signal::QUIT,
        };
        assert_eq!(parse_words(&words), Ok(Command::Prove(options)));
        check_refused(
            &["prove", "--stops=0"],
            r#"--stops: "0" is not a number of stops, 1 or more; try 'lameduck prove --help'"#,
        );
        check_refused(
            &["prove", "--signal=KILL"],
            r#"--signal: "KILL" is not TERM, QUIT or INT; try 'lameduck prove --help'"#,
        );
    }

    #[test]
    fn a_wrong_command_line_is_explained_in_one_line() {
        let bad_duration =
            r#""10" is not a duration such as 500ms, 10s, 2m, 1h or 0; try 'lameduck demo --help'"#;
        check_refused(&["--bad"], "invalid option '--bad'; try 'lameduck --help'");
        check_refused(
            &["prance"],
            r#"unknown command "prance"; try 'lameduck --help'"#,
        );
        check_refused(
            &["demo", "--bad"],
            "invalid option '--bad'; try 'lameduck demo --help'",
        );
        check_refused(
            &["demo", "-x"],
            "invalid option '-x'; try 'lameduck demo --help'",
        );
        check_refused(
            &["demo", "now"],
            r#"unexpected argument "now"; try 'lameduck demo --help'"#,
        );
        check_refused(
            &["demo", "--listen"],
            "missing argument for option '--listen'; try 'lameduck demo --help'",
        );
        check_refused(
            &["demo", "--lame-duck=10"],
            &format!("--lame-duck: {bad_duration}"),
        );
        check_refused(
            &["demo", "--grace-period=10"],
            &format!("--grace-period: {bad_duration}"),
        );
        check_refused(
            &["demo", "--idle-grace=10"],
            &format!("--idle-grace: {bad_duration}"),
        );
        for workers in ["0", "-1", "10001", "99999999999999999999", "many", ""] {
            let problem =
                format!("--workers: {workers:?} is not a number of threads from 1 to 10000");
            check_refused(
                &["demo", "--workers", workers],
                &format!("{problem}; try 'lameduck demo --help'"),
            );
        }
        check_refused(&["--a\nb"], "invalid option '--a?b'; try 'lameduck --help'");
    }

    #[test]
    fn a_link_has_a_round_trip_time_and_may_have_a_loss() {
        for (text, millis, loss, shown) in [
            ("0", 0, 0.0, "0ms,0%"),
            ("160ms", 160, 0.0, "160ms,0%"),
            ("1s,7%", 1000, 0.07, "1000ms,7%"),
            ("25ms,0.5%", 25, 0.005, "25ms,0.5%"),
            ("2s,30%", 2000, 0.3, "2000ms,30%"),
        ] {
            let read = link("--link", text.into()).unwrap();
            let expected = Link {
                round_trip: Duration::from_millis(millis),
                loss,
            };
            assert_eq!((read, read.to_string()), (expected, shown.to_owned()));
        }
        for text in [
            "",
            "25",
            ",1%",
            "25ms,",
            "25ms,1",
            "25ms,%",
            "25ms,-1%",
            "25ms,1e1%",
            "25ms,31%",
            "3s",
            "25ms,1%,1%",
            "25ms, 1%",
            "25ms,inf%",
            "25ms,1..%",
        ] {
            assert!(link("--link", text.into()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("007s", 7_000),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text:?}"
            );
        }
        for text in [
            "", "s", "10", "00", "1.5s", "-1s", "+1s", " 1s", "1s ", "1 s", "1S", "1d", "1us",
            "1s1s", "1h30m", "٣s",
        ] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_duration_that_is_too_long_is_refused() {
        assert_eq!(
            duration("18446744073709551615s"),
            Some(Duration::from_secs(u64::MAX))
        );
        for text in [
            "18446744073709551616s",
            "18446744073709551615m",
            "18446744073709551615h",
        ] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn help_fits_a_terminal_and_has_the_right_defaults() {
        for line in [HELP, DEMO_HELP, PROVE_HELP]
            .into_iter()
            .flat_map(str::lines)
        {
            assert!(line.chars().count() <= 90, "{line:?} is too wide");
        }
        let defaults = DemoOptions::default();
        let check = |name: &str, period: Duration| {
            let line = DEMO_HELP
                .lines()
                .skip_while(|line| !line.contains(name))
                .find(|line| line.contains("[default: "));
            let text = line.and_then(|line| {
                Some(
                    line.split_once("[default: ")?
                        .1
                        .trim_end_matches(']')
                        .to_owned(),
                )
            });
            assert_eq!(text.as_deref().and_then(duration), Some(period), "{name}");
        };
        check("--lame-duck", defaults.lame_duck);
        check("--grace-period", defaults.grace_period);
        check("--idle-grace", defaults.idle_grace);
    }
}
