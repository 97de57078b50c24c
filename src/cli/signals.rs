//! SIGINT and SIGTERM: the first ends the run cleanly, the second at once.

use std::future::Future;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::error::Error;

/// Returns what waits for a signal and says which. From now on signals no longer end the process by themselves.
pub(crate) fn wait() -> Result<impl Future<Output = &'static str>, Error> {
    let fail = |source| Error::System { action: "listen for signals", source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(fail)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        }
    })
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
