//! SIGINT, SIGTERM and SIGHUP: the first ends the run cleanly, the second at once.

use std::future::Future;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::Error;

/// Returns what waits for a signal and says which. From now on signals no longer end the process by themselves.
///
/// One that was ignored when the process started stays ignored: `nohup` asks for that, and shells do for what they run
/// in the background.
pub(crate) fn wait() -> Result<impl Future<Output = &'static str>, Error> {
    let ignored = ignored();
    let listen = |kind: SignalKind| {
        if is_ignored(ignored, kind) {
            return Ok(None);
        }
        signal(kind).map(Some).map_err(|source| Error::System { action: "listen for signals", source })
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            () = received(&mut interrupt) => "SIGINT",
            () = received(&mut terminate) => "SIGTERM",
            () = received(&mut hangup) => "SIGHUP",
        }
    })
}

/// Waits for a signal, and for ever where it is not listened for.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Returns the signals that this process ignores, one a bit. None where the system does not say: Linux does.
fn ignored() -> u64 {
    // Its name is in it, too, which may be any bytes.
    let status = std::fs::read("/proc/self/status").unwrap_or_default();
    ignored_of(&String::from_utf8_lossy(&status))
}

fn ignored_of(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn is_ignored(ignored: u64, kind: SignalKind) -> bool {
    // The lowest bit is signal 1.
    let bit = u32::try_from(kind.as_raw_value() - 1).ok().and_then(|bit| 1_u64.checked_shl(bit));
    bit.is_some_and(|bit| ignored & bit != 0)
}

/// Ends the process on the next signal, whatever it still does.
pub(crate) fn exit_at_once_on_the_next(runtime: &Runtime) {
    runtime.spawn(async {
        if let Ok(signal) = wait() {
            signal.await;
            super::exit_now();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_which_signals_are_ignored() {
        let ignored = ignored_of("Name:\torkvault\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n");
        for (kind, is) in [
            (SignalKind::hangup(), true),
            (SignalKind::pipe(), true),
            (SignalKind::interrupt(), false),
            (SignalKind::terminate(), false),
        ] {
            assert_eq!(is_ignored(ignored, kind), is, "{kind:?}");
        }
        for nothing in ["", "SigIgn:\n", "SigIgn:\tnone\n"] {
            assert_eq!(ignored_of(nothing), 0, "{nothing:?}");
        }
    }
}
