//! What a real server's refusals are called, and that no secret is in the message.

use orkvault::component::s3::{BucketsSource, Error, SourceOptions};
use orkvault::component::{self, ErrorKind, Source};

use crate::support::minio::{Minio, access};

async fn trouble(access: &orkvault::component::s3::Access) -> Error {
    let mut source = BucketsSource::new(access, SourceOptions::default(), String::new()).unwrap();
    match source.probe().await {
        Err(component::Error::S3(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn wrong_credentials_are_called_that_and_not_shown() {
    let Some(server) = Minio::start().await else { return };
    for access in [server.access_with("canary-secret-1"), access(&endpoint(&server), "nobody", "canary-secret-1")] {
        let error = trouble(&access).await;
        assert!(matches!(error, Error::Credentials { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}

fn endpoint(server: &Minio) -> String {
    server.access().endpoint
}

#[tokio::test]
async fn a_server_that_is_gone_is_unreachable() {
    let Some(mut server) = Minio::start().await else { return };
    let access = server.access();
    server.stop();
    let error = trouble(&access).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&access.endpoint), "{error}");
}

#[test]
fn an_endpoint_with_credentials_in_it_is_refused() {
    for endpoint in ["http://user:pass@localhost:9000", "localhost:9000", "ftp://localhost", "http://"] {
        let access = access(endpoint, "user", "password");
        let error = BucketsSource::new(&access, SourceOptions::default(), String::new()).err().unwrap();
        assert!(matches!(error, Error::Endpoint { .. }), "{endpoint}");
        assert!(!error.to_string().contains("pass"));
    }
}
