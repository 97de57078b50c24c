//! A daemon on a Unix socket that answers by a script, for what no real one does on demand. Strict: a
//! request that the script does not expect fails the test.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use orkvault::component::docker::{Docker, Endpoint, EndpointOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// One exchange: the start of the request line, and the raw answer made from the request.
pub(crate) struct Step {
    expect: &'static str,
    answer: Answer,
}

/// Makes the raw answer from the request.
type Answer = Box<dyn FnOnce(&str) -> Vec<u8> + Send>;

/// Returns an exchange.
pub(crate) fn step(expect: &'static str, answer: impl FnOnce(&str) -> Vec<u8> + Send + 'static) -> Step {
    Step { expect, answer: Box::new(answer) }
}

/// The scripted daemon.
pub(crate) struct MockDaemon {
    pub(crate) docker: Docker,
    left: Arc<Mutex<Vec<Step>>>,
    wrong: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

impl MockDaemon {
    /// Listens, and answers the steps in their order.
    pub(crate) fn start(mut steps: Vec<Step>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        steps.reverse();
        let left = Arc::new(Mutex::new(steps));
        let wrong = Arc::new(Mutex::new(Vec::new()));
        let (steps, mistakes) = (Arc::clone(&left), Arc::clone(&wrong));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = read_request(&mut stream).await;
                let line = request.lines().next().unwrap_or_default().to_owned();
                let step = steps.lock().unwrap().pop();
                let answer = match step {
                    Some(step) if line.starts_with(step.expect) => (step.answer)(&request),
                    other => {
                        let expected = other.map_or("nothing more", |step| step.expect);
                        mistakes.lock().unwrap().push(format!("expected {expected}, got {line}"));
                        json(500, r#"{"message":"not in the script"}"#)
                    }
                };
                // The client may have hung up already: then it has seen enough.
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        });
        let host = format!("unix://{}", path.display());
        let endpoint = Endpoint::resolve(EndpointOptions { docker_host: Some(&host), env: &BTreeMap::new() }).unwrap();
        Self { docker: Docker::connect(&endpoint).unwrap(), left, wrong, _dir: dir }
    }

    /// Checks that the whole script was played and nothing else was asked.
    pub(crate) fn finish(self) {
        assert_eq!(*self.wrong.lock().unwrap(), Vec::<String>::new());
        let left: Vec<&str> = self.left.lock().unwrap().iter().map(|step| step.expect).collect();
        assert!(left.is_empty(), "never asked: {left:?}");
    }
}

async fn read_request(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let announced =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).map(|len| len.parse().unwrap());
            let chunked = head.contains("transfer-encoding: chunked");
            if if chunked { body.ends_with("0\r\n\r\n") } else { body.len() >= announced.unwrap_or(0) } {
                return text;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return text,
            Ok(len) => bytes.extend_from_slice(&buffer[..len]),
        }
    }
}

/// Returns a JSON answer.
pub(crate) fn json(status: u16, body: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Returns the answer that turns the connection into a stream, and what follows on it.
pub(crate) fn upgraded(frames: &[&[u8]]) -> Vec<u8> {
    let head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let mut answer = head.as_bytes().to_vec();
    frames.iter().for_each(|frame| answer.extend_from_slice(frame));
    answer
}

/// Returns a whole frame: 1 is standard output, 2 standard error.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 0, 0], &len[..], payload].concat()
}

/// Returns the value of an environment variable in an exec's creation request.
pub(crate) fn env_of(request: &str, name: &str) -> String {
    let (_, rest) = request.split_once(&format!("\"{name}=")).unwrap();
    rest.split('"').next().unwrap().to_owned()
}
