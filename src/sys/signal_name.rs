//! The names of signals, for the texts of errors, reports and log lines.

/// Returns a signal's name as in `SIGTERM`, or its number as in `signal 34` if it has none.
pub(crate) fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal)
        .map_or_else(|| format!("signal {signal}"), str::to_owned)
}
