//! What a real daemon does not do on demand: cut frames, garbage, false exit codes, short archives.

use bytes::Bytes;
use orkvault::component::docker::{Error, ExecCommand, FileContent, NewFile, Upload};

use crate::support::mock_daemon::{MockDaemon, Step, env_of, frame, json, step, upgraded};

const CREATE: &str = "POST /containers/box/exec";
const START: &str = "POST /exec/e1/start";
const INSPECT: &str = "GET /exec/e1/json";

fn created() -> Step {
    step(CREATE, |_| json(201, r#"{"Id":"e1"}"#))
}

fn started(frames: &[Vec<u8>]) -> Step {
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    let answer = upgraded(&frames);
    step(START, move |_| answer)
}

fn state(body: &'static str) -> Step {
    step(INSPECT, move |_| json(200, body))
}

/// The answer to the attempt to kill what is left.
fn gone() -> Step {
    step(CREATE, |_| json(404, r#"{"message":"No such container: box"}"#))
}

fn pid() -> Vec<u8> {
    frame(2, b"ORKVAULT_PID 77\n")
}

async fn dump(steps: Vec<Step>) -> Result<Vec<u8>, Error> {
    let mock = MockDaemon::start(steps);
    let result = async {
        let mut dump = mock.docker.dump("box", ExecCommand::new(["mongodump"])).await?;
        let mut all = Vec::new();
        while let Some(bytes) = dump.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
    .await;
    mock.finish();
    result
}

/// A dump whose frames are made from the nonce that the client asked for.
fn with_nonce(frames: impl FnOnce(&str) -> Vec<Vec<u8>> + Send + 'static) -> Vec<Step> {
    let (send, receive) = std::sync::mpsc::channel();
    let create = step(CREATE, move |request| {
        send.send(env_of(request, "ORKVAULT_END")).unwrap();
        json(201, r#"{"Id":"e1"}"#)
    });
    let start = step(START, move |_| {
        let frames = frames(&receive.recv().unwrap());
        upgraded(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>())
    });
    vec![create, start]
}

type Tail = fn(&str) -> Vec<Vec<u8>>;

const ENDED_WELL: &str = r#"{"Running":false,"ExitCode":0}"#;

#[tokio::test]
async fn whole_dump_is_whole_however_its_frames_are_cut() {
    let steps = with_nonce(|nonce| {
        let (first, second) = nonce.split_at(5);
        let (a, b, c) = (frame(1, b"da"), frame(1, format!("ta{first}").as_bytes()), frame(1, second.as_bytes()));
        // The process id is on another pipe: output may overtake it.
        vec![a, frame(1, b""), pid(), frame(2, b"progress\n"), b, c]
    });
    let steps = steps.into_iter().chain([state(ENDED_WELL)]).collect();
    assert_eq!(dump(steps).await.unwrap(), b"data");
}

#[tokio::test]
async fn lost_end_is_found_though_the_exit_code_is_0() {
    let tails: [Tail; 4] = [
        |_| vec![pid(), frame(1, &[b'x'; 10_000])],
        |_| vec![pid()],
        |nonce| vec![pid(), frame(1, b"data"), frame(1, &nonce.as_bytes()[..31])],
        // Cut behind a frame's head, which the client library does not tell: the whole nonce is missing.
        |_| vec![pid(), frame(1, b"data"), vec![1, 0, 0, 0, 0, 0, 0, 32]],
    ];
    for tail in tails {
        let steps = with_nonce(tail).into_iter().chain([state(ENDED_WELL)]).collect();
        let error = dump(steps).await.unwrap_err();
        assert!(matches!(error, Error::DumpCut { .. }), "{error}");
    }
}

#[tokio::test]
async fn frame_cut_in_the_middle_is_an_error() {
    let steps = with_nonce(|_| vec![pid(), frame(1, b"data"), frame(1, b"more data")[..12].to_vec()]);
    let error = dump(steps.into_iter().chain([gone(), gone()]).collect()).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn garbage_between_frames_is_an_error() {
    for garbage in [&b"HTTP/1.1 500 oops"[..], &[3, 0, 0, 0, 0, 0, 0, 1, b'x'], &[0, 0, 0, 0, 0, 0, 0, 1, b'x']] {
        let steps = with_nonce(move |nonce| vec![pid(), garbage.to_vec(), frame(1, nonce.as_bytes())]);
        let error = dump(steps.into_iter().chain([gone(), gone()]).collect()).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
}

#[tokio::test]
async fn exit_code_of_a_process_that_still_runs_means_nothing() {
    let steps = with_nonce(|nonce| vec![pid(), frame(1, nonce.as_bytes())]);
    let states = [
        r#"{"Running":true,"ExitCode":0}"#,
        r#"{"Running":true,"ExitCode":null}"#,
        r#"{"Running":false,"ExitCode":null}"#,
        r#"{"Running":false,"ExitCode":2}"#,
    ];
    let error = dump(steps.into_iter().chain(states.map(state)).collect()).await.unwrap_err();
    assert!(matches!(error, Error::DumpFailed { exit_code: 2, .. }), "{error}");
}

#[tokio::test]
async fn start_failure_is_told_on_either_stream() {
    for (kind, code) in [(1, r#"{"Running":false,"ExitCode":126}"#), (2, r#"{"Running":false,"ExitCode":127}"#)] {
        let words = frame(kind, b"OCI runtime exec failed: exec failed: no such file\r\n");
        let error = dump(vec![created(), started(&[words]), state(code)]).await.unwrap_err();
        let Error::NotStarted { exit_code, message, program, .. } = &error else { panic!("{error}") };
        assert!(matches!(exit_code, 126 | 127));
        assert_eq!((message.as_str(), program.as_str()), ("OCI runtime exec failed: exec failed: no such file", "sh"));
    }
}

#[tokio::test]
async fn connection_that_closes_before_the_stream_is_an_error() {
    let error = dump(vec![created(), step(START, |_| Vec::new())]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

// Archives.

const STAT: &str = "HEAD /containers/box/archive?path=%2Fdata%2Ff";
const GET: &str = "GET /containers/box/archive?path=%2Fdata%2Ff";

/// What the daemon says of a regular file of 5 bytes, base64 of JSON as in its header.
fn file_stat() -> Step {
    // {"name":"f","size":5,"mode":420,"mtime":"2026-01-01T00:00:00Z","linkTarget":""}
    let stat =
        "eyJuYW1lIjoiZiIsInNpemUiOjUsIm1vZGUiOjQyMCwibXRpbWUiOiIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsImxpbmtUYXJnZXQiOiIifQ==";
    step(STAT, move |_| {
        format!("HTTP/1.1 200 OK\r\nX-Docker-Container-Path-Stat: {stat}\r\nConnection: close\r\n\r\n").into_bytes()
    })
}

fn archive(tar: Vec<u8>) -> Step {
    step(GET, move |_| {
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", tar.len());
        [head.into_bytes(), tar].concat()
    })
}

fn tar_of(name: &str, announced: u64, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_size(announced);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut tar = [header.as_bytes(), content].concat();
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    tar
}

async fn read(tar: Vec<u8>, after: Vec<Step>) -> Result<Bytes, Error> {
    let steps = [file_stat(), archive(tar)].into_iter().chain(after).collect();
    let mock = MockDaemon::start(steps);
    let result = async {
        let mut body = mock.docker.open_file("box", "/data/f").await?;
        let mut all = Vec::new();
        while let Some(bytes) = body.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(Bytes::from(all))
    }
    .await;
    mock.finish();
    result
}

#[tokio::test]
async fn archive_that_does_not_hold_exactly_the_file_is_an_error() {
    assert_eq!(read(tar_of("f", 5, b"hello"), vec![]).await.unwrap(), "hello");
    let whole = tar_of("f", 5, b"hello");
    let two = [&whole[..1024], &whole[..]].concat();
    let mut no_zero = whole.clone();
    no_zero[700] = 1;
    let mut odd_trailer = whole.clone();
    odd_trailer.push(0);
    let bad = [
        ("another name", tar_of("g", 5, b"hello")),
        ("two entries", two),
        ("shrunk, with a trailer", tar_of("f", 5000, b"hello")),
        ("padding that is not zero", no_zero),
        ("half a block", odd_trailer),
        ("no trailer", whole[..1024].to_vec()),
        ("half a trailer", whole[..1536].to_vec()),
        ("nothing", Vec::new()),
        ("nothing but a trailer", vec![0; 1024]),
        ("no tar", b"{\"message\":\"oops\"}".to_vec()),
    ];
    for (what, tar) in bad {
        let error = read(tar, vec![]).await.err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(matches!(error, Error::Archive { .. }), "{what}: {error}");
    }
}

#[tokio::test]
async fn upload_that_is_answered_well_but_is_not_there_is_an_error() {
    let dir_stat = step("HEAD /containers/box/archive?path=%2Fdata", |_| {
        // {"name":"data","size":4096,"mode":2147484141,"mtime":"2026-01-01T00:00:00Z","linkTarget":""}
        let stat = "eyJuYW1lIjoiZGF0YSIsInNpemUiOjQwOTYsIm1vZGUiOjIxNDc0ODQxNDEsIm10aW1lIjoiMjAyNi0wMS0wMVQwMDowMDowMFoiLCJsaW5rVGFyZ2V0IjoiIn0=";
        format!("HTTP/1.1 200 OK\r\nX-Docker-Container-Path-Stat: {stat}\r\nConnection: close\r\n\r\n").into_bytes()
    });
    let mut dir = tar::Header::new_gnu();
    dir.set_path("data/").unwrap();
    dir.set_entry_type(tar::EntryType::Directory);
    dir.set_size(0);
    dir.set_mode(0o755);
    dir.set_uid(0);
    dir.set_gid(0);
    dir.set_mtime(0);
    dir.set_cksum();
    let dir_tar = [dir.as_bytes().as_slice(), &[0; 1024]].concat();
    let steps = vec![
        dir_stat,
        step("GET /containers/box/archive?path=%2Fdata", move |_| {
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", dir_tar.len());
            [head.into_bytes(), dir_tar].concat()
        }),
        step("PUT /containers/box/archive?path=%2Fdata&noOverwriteDirNonDir=1", |_| json(200, "")),
        file_stat(),
        archive(tar_of("f", 5, b"hellO")),
    ];
    let mock = MockDaemon::start(steps);
    let content = FileContent::Bytes(Bytes::from_static(b"hello"));
    let file = NewFile { name: "f".to_owned(), uid: 0, gid: 0, mode: 0o644, content };
    let upload = Upload { files: vec![file], ..Upload::default() };
    let error = mock.docker.write_files("box", "/data", upload).await.unwrap_err();
    assert!(matches!(error, Error::UploadDiffers { .. }), "{error}");
    mock.finish();
}
