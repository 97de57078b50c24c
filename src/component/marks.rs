//! Where records end in a stream that comes out of a snapshot: it was stored without those places, and whoever stores
//! it again cuts it as its source would have, so that the two have chunks in common.

use futures::StreamExt as _;
use futures::stream;

use super::mongodb::archive::Framer;
use super::mongodb::{self, EmptyArchive};
use super::{ByteStream, Error, Run, StreamKind};

/// The component whose one stream is an RDB file.
const REDIS: &str = "redis";

/// Returns how a component's stream is cut, and its bytes with the places at which records end. What does not parse
/// is passed on without them: whether the content is right is not judged here.
#[must_use]
pub fn marked(component: &str, stream: &str, body: ByteStream) -> (StreamKind, ByteStream) {
    if (component, stream) == (mongodb::COMPONENT, mongodb::STREAM) {
        let framer = Some(Framer::new(EmptyArchive::Allowed));
        return (StreamKind::Dump, stream::unfold((body, framer), next).boxed());
    }
    let kind = if component == REDIS { StreamKind::Rdb } else { StreamKind::Dump };
    (kind, body)
}

async fn next(
    (mut body, mut framer): (ByteStream, Option<Framer>),
) -> Option<(Result<Run, Error>, (ByteStream, Option<Framer>))> {
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
