//! What the process gives up before it sees the first key.

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit, umask};

/// Makes new files private, forbids core dumps and tracing by others, and keeps panics from printing
/// values. A step that the system refuses is left out: none of them is a reason not to make a backup.
pub(crate) fn harden() {
    umask(Mode::RWXG | Mode::RWXO);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    std::panic::set_hook(Box::new(|panic| {
        // The place only: a message could hold anything.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        super::output::error_line(&format!("orkvault: a bug was hit at {place}"));
    }));
}
