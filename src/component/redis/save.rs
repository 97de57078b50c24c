//! BGSAVE, and the proof that the file is the one that it wrote.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Error;
use super::server::{Fields, Server};

/// How often the server is asked whether it has saved.
const POLL: Duration = Duration::from_millis(200);
/// Saves of others waited for at most.
const OTHERS_MAX: u32 = 3;
/// A scheduled save that was not seen to run after so many polls without a child is asked for again.
const IDLE_POLLS_MAX: u32 = 50;

/// A finished save.
#[derive(Debug, Clone, Copy)]
pub(super) struct Saved {
    /// The server's clock when it was asked for: the file is not older.
    pub(super) started_secs: u64,
}

/// Has the server write its RDB file and waits until it has, at most `limit`. A child that runs already
/// (an AOF rewrite) is waited for; a save that was begun by somebody else earlier does not count.
pub(super) async fn save(server: &mut Server, limit: Duration) -> Result<Saved, Error> {
    let deadline = Instant::now() + limit;
    let timeout = |place: &str| Error::SaveTimeout { place: place.to_owned(), secs: limit.as_secs() };
    let before = settled(server, deadline).await?.ok_or_else(|| timeout(server.place()))?;
    let run_id = server.info("server").await?.need("run_id")?.to_owned();
    let mut started_secs = server.time_secs().await?;
    if before.number("rdb_saves").is_none() {
        // LASTSAVE counts seconds: without a count of saves, ours must fall into a later one
        while before.number("rdb_last_save_time") >= Some(started_secs) && Instant::now() < deadline {
            sleep(POLL).await;
            started_secs = server.time_secs().await?;
        }
    }
    for _ in 0..OTHERS_MAX {
        match server.text(&["BGSAVE", "SCHEDULE"]).await {
            Ok(_) => {}
            Err(Error::Command { reply, .. }) if reply.contains("in progress") => {
                settled(server, deadline).await?.ok_or_else(|| timeout(server.place()))?;
                continue;
            }
            Err(error) => return Err(error),
        }
        match wait(server, &before, started_secs, deadline).await? {
            Outcome::Saved => {
                if server.info("server").await?.need("run_id")? != run_id {
                    return Err(Error::Restarted { place: server.place().to_owned() });
                }
                return Ok(Saved { started_secs });
            }
            Outcome::Failed(status) => return Err(Error::SaveFailed { place: server.place().to_owned(), status }),
            Outcome::TimedOut => return Err(timeout(server.place())),
            Outcome::Forgotten => {}
        }
    }
    Err(timeout(server.place()))
}

enum Outcome {
    Saved,
    Failed(String),
    TimedOut,
    /// The scheduled save was never seen.
    Forgotten,
}

/// Waits until no save runs; returns the state then, or `None` at the deadline.
pub(super) async fn settled(server: &mut Server, deadline: Instant) -> Result<Option<Fields>, Error> {
    loop {
        let now = server.info("persistence").await?;
        if now.is_on("loading") {
            return Err(Error::Loading { place: server.place().to_owned() });
        }
        if !now.is_on("rdb_bgsave_in_progress") {
            return Ok(Some(now));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(POLL).await;
    }
}

async fn wait(server: &mut Server, before: &Fields, started_secs: u64, deadline: Instant) -> Result<Outcome, Error> {
    let (mut seen_running, mut idle_polls) = (false, 0);
    loop {
        let now = server.info("persistence").await?;
        if now.is_on("rdb_bgsave_in_progress") {
            seen_running = true;
        } else {
            let saved = match (before.number("rdb_saves"), now.number("rdb_saves")) {
                // fewer: the server restarted, which the caller sees by its run id
                (Some(then), Some(now)) => now != then,
                _ => now.number("rdb_last_save_time") >= Some(started_secs),
            };
            let status = now.need("rdb_last_bgsave_status")?;
            if saved && status == "ok" {
                return Ok(Outcome::Saved);
            }
            let failed_now = status != "ok" && before.get("rdb_last_bgsave_status") == Some("ok");
            if seen_running || failed_now {
                return Ok(Outcome::Failed(status.to_owned()));
            }
            let child = now.is_on("aof_rewrite_in_progress") || now.is_on("module_fork_in_progress");
            idle_polls = if child { 0 } else { idle_polls + 1 };
            if idle_polls > IDLE_POLLS_MAX {
                return Ok(Outcome::Forgotten);
            }
        }
        if Instant::now() >= deadline {
            return Ok(Outcome::TimedOut);
        }
        sleep(POLL).await;
    }
}
