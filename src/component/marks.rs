//! Where records end in a stream that comes out of a snapshot: it was stored without those places, and whoever stores
//! it again cuts it as its source would have, so that the two have chunks in common.

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use super::mongodb::archive::{Framer, PUSH_LEN_MAX};
use super::mongodb::{self, EmptyArchive};
use super::{ByteStream, Error, Run, StreamKind};

/// The component whose one stream is an RDB file.
const REDIS: &str = "redis";

/// Returns how a component's stream is cut, and its bytes with the places at which records end. What does not parse
/// is passed on without them: whether the content is right is not judged here.
#[must_use]
pub fn marked(component: &str, stream: &str, body: ByteStream) -> (StreamKind, ByteStream) {
    let short = body.flat_map(short_runs).boxed();
    if (component, stream) == (mongodb::COMPONENT, mongodb::STREAM) {
        let framer = Some(Framer::new(EmptyArchive::Allowed));
        return (StreamKind::Dump, stream::unfold((short, framer), next).boxed());
    }
    let kind = if component == REDIS { StreamKind::Rdb } else { StreamKind::Dump };
    (kind, short)
}

type Short = BoxStream<'static, Result<Run, Error>>;

/// Cuts a run into such as are allowed.
fn short_runs(run: Result<Run, Error>) -> Short {
    match run {
        Ok(Run { bytes, .. }) => {
            let places = (0..bytes.len()).step_by(PUSH_LEN_MAX);
            let runs = places.map(move |at| Ok(Run::from(bytes.slice(at..bytes.len().min(at + PUSH_LEN_MAX)))));
            stream::iter(runs).boxed()
        }
        Err(error) => stream::iter([Err(error)]).boxed(),
    }
}

async fn next(
    (mut body, mut framer): (Short, Option<Framer>),
) -> Option<(Result<Run, Error>, (Short, Option<Framer>))> {
    let run = body.next().await?.map(|mut run| {
        if let Some(framed) = &mut framer
            && framed.push(&run.bytes, &mut run.ends).is_err()
        {
            run.ends.clear();
            framer = None;
        }
        run
    });
    Some((run, (body, framer)))
}
