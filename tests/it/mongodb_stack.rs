//! MongoDB of the test stack through the real tools (or the stack's stand-ins): there and back, and what
//! goes wrong on the way.

use std::process::{Command, Stdio};
use std::time::Duration;

use orkvault::component::docker::Docker;
use orkvault::component::mongodb::archive::{ArchiveError, EmptyArchive};
use orkvault::component::mongodb::{
    Address, ArchiveFile, Error as MongoError, MongoSink, MongoSource, Place, Server, SinkOptions, Tools,
};
use orkvault::component::secret::Secret;
use orkvault::component::{Captured, Error, ErrorKind, Sink, Source};

use crate::support::docker::{cli, daemon};
use crate::support::mongodb::{FakeTools, Memory, Snapshot, Stack, archive, at, contents, database, login, on_host};

/// A name that no other test, or earlier run, has put into the server.
fn unique(name: &str) -> String {
    format!("it_{name}_{}", std::process::id())
}

fn into(target: &str) -> SinkOptions {
    SinkOptions { database: Some(target.to_owned()), idle: Duration::from_secs(60) }
}

async fn capture(tools: Tools, name: &str) -> Result<Snapshot, Error> {
    let mut memory = Memory::default();
    let mut source = MongoSource::new(tools, database(name)).unwrap();
    source.probe().await?;
    let captured = source.capture(&mut memory).await?;
    Ok(Snapshot::new(captured, memory.bytes))
}

async fn imported(name: &str) -> Snapshot {
    let bytes = archive(name);
    let mut source = ArchiveFile::new(name, std::io::Cursor::new(bytes.clone()), EmptyArchive::Refused);
    let captured: Captured = source.capture(&mut Memory::default()).await.unwrap();
    Snapshot::new(captured, bytes)
}

async fn restore(tools: Tools, stored: &mut Snapshot, target: &str) {
    let mut sink = MongoSink::new(tools, into(target)).unwrap();
    let plan = sink.plan(stored).await.unwrap();
    assert_eq!(plan.replaces.len() + plan.creates.len(), stored.captured.catalogue.len());
    let restored = sink.restore(stored).await.unwrap();
    assert_eq!(restored.bytes, u64::try_from(stored.bytes.len()).unwrap());
}

/// An archive made elsewhere goes in, comes out, goes into a database of another name, and comes out the same.
async fn there_and_back(place: impl Fn() -> Tools, label: &str) {
    let (one, two) = (unique(&format!("{label}_one")), unique(&format!("{label}_two")));
    let mut original = imported("basic").await;
    restore(place(), &mut original, &one).await;
    let mut first = capture(place(), &one).await.unwrap();
    assert_eq!(contents(&first.bytes), contents(&original.bytes));
    assert_eq!(first.captured.facts["documents"], "457");
    restore(place(), &mut first, &two).await;
    let second = capture(place(), &two).await.unwrap();
    assert_eq!(contents(&second.bytes), contents(&original.bytes));

    let mut sink = MongoSink::new(place(), into(&two)).unwrap();
    let plan = sink.plan(&mut first).await.unwrap();
    assert_eq!((plan.replaces.len(), plan.creates.len()), (11, 0), "what is there now is said to be replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_goes_there_and_back_by_address() {
    let Some(stack) = Stack::find() else { return };
    there_and_back(|| stack.on_host(), "host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_goes_there_and_back_by_docker_exec() {
    let Some(stack) = Stack::find() else { return };
    let Some(docker) = daemon().await else { return };
    there_and_back(|| stack.in_container(&docker), "exec").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uri_is_an_address_and_its_database_does_not_matter() {
    let Some(stack) = Stack::find() else { return };
    let name = unique("uri");
    restore(stack.on_host(), &mut imported("basic-one-collection").await, &name).await;
    let encoded: String = stack.password.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let uri =
        format!("mongodb://admin:{encoded}@127.0.0.1:{}/somewhere?authSource=admin&directConnection=true", stack.port);
    let server = Server { address: Address::Uri(Secret::new(uri)), ..Server::default() };
    let snapshot = capture(on_host(&stack.tools, server), &name).await.unwrap();
    assert_eq!(snapshot.captured.facts["documents"], "400");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_a_refused_login_and_never_shown() {
    const WRONG: &str = "not-the-password";
    let Some(stack) = Stack::find() else { return };
    let Some(docker) = daemon().await else { return };
    let container = || {
        let server = Server { login: Some(login(WRONG)), ..Server::default() };
        Tools { place: Place::Container { docker: docker.clone(), container: stack.container.clone() }, server }
    };
    let host = || on_host(&stack.tools, at(stack.port, WRONG));
    let uri = || {
        let uri = format!("mongodb://admin:{WRONG}@127.0.0.1:{}/?authSource=admin", stack.port);
        on_host(&stack.tools, Server { address: Address::Uri(Secret::new(uri)), ..Server::default() })
    };
    let mut stored = imported("basic-one-collection").await;
    let source = |tools| MongoSource::new(tools, database("orkestra")).unwrap();
    let sink = |tools| MongoSink::new(tools, into("orkestra")).unwrap();
    let errors = [
        source(container()).capture(&mut Memory::default()).await.map(|_| ()).unwrap_err(),
        sink(container()).restore(&mut stored).await.map(|_| ()).unwrap_err(),
        source(host()).probe().await.unwrap_err(),
        sink(host()).plan(&mut stored).await.map(|_| ()).unwrap_err(),
        sink(host()).restore(&mut stored).await.map(|_| ()).unwrap_err(),
        source(uri()).capture(&mut Memory::default()).await.map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Mongodb(MongoError::LoginRefused { .. })), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(!format!("{error:?}").contains(WRONG), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_unreachable() {
    let Some(stack) = Stack::find() else { return };
    let mut server = at(1, "x");
    // The stand-ins have no such option, and give up at once.
    let is_real = std::env::var("ORKVAULT_TEST_MONGO_TOOLS").is_ok_and(|kind| kind == "real");
    server.selection_timeout_secs = is_real.then_some(1);
    let error = capture(on_host(&stack.tools, server), "orkestra").await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Mongodb(MongoError::Unreachable { .. })), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelled_database_is_no_capture() {
    let Some(stack) = Stack::find() else { return };
    let Some(docker) = daemon().await else { return };
    for tools in [stack.on_host(), stack.in_container(&docker)] {
        let mut source = MongoSource::new(tools, database("orkestar")).unwrap();
        for error in [source.probe().await, source.capture(&mut Memory::default()).await.map(|_| ())] {
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Mongodb(MongoError::Archive(ArchiveError::NoNamespace))), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_the_tools_and_one_that_is_not_there_are_named() {
    let Some(stack) = Stack::find() else { return };
    let Some(docker) = daemon().await else { return };
    let redis = std::env::var("ORKVAULT_TEST_REDIS_CONTAINER").unwrap();
    let at = |container: &str| {
        let mut tools = stack.in_container(&docker);
        tools.place = Place::Container { docker: docker.clone(), container: container.to_owned() };
        tools
    };
    let error = capture(at(&redis), "orkestra").await.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Mongodb(MongoError::ToolMissing { program: "mongodump", .. })), "{error:?}");
    let mut sink = MongoSink::new(at(&redis), into("orkestra")).unwrap();
    let error = sink.plan(&mut imported("many").await).await.unwrap_err();
    assert!(matches!(error, Error::Mongodb(MongoError::ToolMissing { program: "mongorestore", .. })), "{error:?}");
    let error = capture(at("no-such-container"), "orkestra").await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no-such-container"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodump_killed_at_any_point_is_no_capture() {
    let Some(stack) = Stack::find() else { return };
    let name = unique("killed");
    let mut original = imported("basic").await;
    restore(stack.on_host(), &mut original, &name).await;
    let real = stack.tools.display();
    let len = original.bytes.len();
    // The pipe stays open for reading: mongodump dies of the signal alone, with more to write than it holds.
    for cut in [0, 100, 3000, len / 7, len / 3, len / 2, len * 5 / 6] {
        let script = format!(
            "mkfifo \"$DIR/f\"; exec 4<&3; '{real}/mongodump' \"$@\" 3<&4 >\"$DIR/f\" & p=$!
             exec 5<\"$DIR/f\"; head -c {cut} <&5; kill -9 $p; rm \"$DIR/f\"; wait $p"
        );
        let tools = FakeTools::new(b"", &script, "exit 99");
        let tools = on_host(&tools.path(""), at(stack.port, &stack.password));
        let mut source = MongoSource::new(tools, database(&name)).unwrap();
        let error = source.capture(&mut Memory::default()).await.unwrap_err();
        assert!(matches!(error, Error::Mongodb(MongoError::ToolFailed { exit_code: 137, .. })), "{cut}: {error:?}");
    }
}

/// Runs a container of the server's image beside the server: one that may die without harm to other tests.
struct Beside {
    name: String,
}

impl Beside {
    fn start(stack: &Stack, name: &str) -> Self {
        let image = cli(&["inspect", "-f", "{{.Image}}", &stack.container]);
        let name = format!("{}-{name}", unique("beside").replace('_', "-"));
        cli(&[
            "run",
            "-d",
            "--name",
            &name,
            "--network",
            &stack.network,
            "--entrypoint",
            "sh",
            &image,
            "-c",
            "read x <&1 || while :; do sleep 1; done",
        ]);
        Self { name }
    }

    fn tools(&self, docker: &Docker, stack: &Stack) -> Tools {
        let mut server = at(27017, &stack.password);
        server.address = Address::Host { host: stack.container.clone(), port: 27017 };
        Tools { place: Place::Container { docker: docker.clone(), container: self.name.clone() }, server }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.name]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_killed_during_the_dump_or_the_restore_is_neither() {
    let Some(stack) = Stack::find() else { return };
    let Some(docker) = daemon().await else { return };
    let name = unique("dying");
    let mut original = imported("basic").await;
    restore(stack.on_host(), &mut original, &name).await;
    for call in ["dump", "restore"] {
        let beside = Beside::start(&stack, call);
        // A tool of that container that stops halfway, so that the container dies at a known point.
        let tools = beside.tools(&docker, &stack);
        let half = "printf '#!/bin/sh\\nprintf started >&2; sleep 600\\n' >half; chmod 755 half
            for tool in mongodump mongorestore; do cp half \"$(command -v $tool)\"; done";
        cli(&["exec", &beside.name, "sh", "-c", half]);
        let killer = {
            let name = beside.name.clone();
            tokio::task::spawn_blocking(move || {
                for _ in 0..100 {
                    let top = Command::new("docker").args(["top", &name]).output().unwrap();
                    if String::from_utf8_lossy(&top.stdout).contains("sleep 600") {
                        return cli(&["kill", &name]);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                panic!("the tool never ran")
            })
        };
        let error = match call {
            "dump" => {
                let mut source = MongoSource::new(tools, database(&name)).unwrap();
                source.capture(&mut Memory::default()).await.map(|_| ()).unwrap_err()
            }
            _ => {
                let mut sink = MongoSink::new(tools, into(&name)).unwrap();
                sink.restore(&mut original).await.map(|_| ()).unwrap_err()
            }
        };
        killer.await.unwrap();
        assert!(matches!(error, Error::Mongodb(MongoError::ToolFailed { exit_code: 137, .. })), "{call}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_in_dockers_events_or_among_any_arguments() {
    let Some(stack) = Stack::find() else { return };
    let Some(docker) = daemon().await else { return };
    let name = unique("events");
    let mut events = Command::new("docker")
        .args(["events", "--filter", &format!("container={}", stack.container)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let watcher = tokio::task::spawn_blocking({
        let (password, stop) = (stack.password.clone(), std::env::temp_dir().join(unique("watch")));
        let stop_file = stop.clone();
        std::fs::write(&stop, b"").unwrap();
        move || {
            let (mut seen, mut tools) = (Vec::new(), 0);
            while stop_file.exists() {
                for process in std::fs::read_dir("/proc").unwrap().flatten() {
                    let Ok(line) = std::fs::read(process.path().join("cmdline")) else { continue };
                    let line = String::from_utf8_lossy(&line).into_owned();
                    tools += usize::from(line.contains("--config=/dev/fd/3"));
                    if line.contains(&password) {
                        seen.push(line);
                    }
                }
                // Tools run for longer than this, and the others here want the processor too.
                std::thread::sleep(Duration::from_millis(3));
            }
            (seen, tools)
        }
    });
    restore(stack.in_container(&docker), &mut imported("basic-one-collection").await, &name).await;
    capture(stack.in_container(&docker), &name).await.unwrap();
    capture(stack.on_host(), &name).await.unwrap();
    std::fs::remove_file(std::env::temp_dir().join(unique("watch"))).unwrap();
    let (seen, tools) = watcher.await.unwrap();
    assert_eq!(seen, [] as [String; 0]);
    assert!(tools > 0, "the watcher saw the tools run");
    events.kill().unwrap();
    let output = events.wait_with_output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains("exec_create") && output.contains("mongodump"), "{output}");
    assert!(!output.contains(&stack.password));
}
