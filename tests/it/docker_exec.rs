//! Commands in real containers: what they write, how they end, and that they end.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use orkvault::component::docker::{BoxError, ContainerState, Docker, Error, ExecCommand, Output};
use orkvault::component::secret::Secret;

use crate::support::docker::{Sleeper, cli, daemon};

fn shell(line: &str) -> ExecCommand {
    ExecCommand::new(["sh", "-c", line])
}

async fn whole(docker: &Docker, container: &str, command: ExecCommand) -> Result<Vec<u8>, Error> {
    let mut dump = docker.dump(container, command).await?;
    let mut all = Vec::new();
    while let Some(bytes) = dump.next().await? {
        assert!(!bytes.is_empty());
        all.extend_from_slice(&bytes);
    }
    assert_eq!(dump.received(), u64::try_from(all.len()).unwrap());
    Ok(all)
}

/// Waits until only the container's first process is left; panics after 15 s.
async fn alone(container: &Sleeper) {
    for _ in 0..150 {
        if container.processes().len() == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("still running: {:?}", container.processes());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_outputs_and_the_exit_code_arrive() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    let ended = docker.run(&container.name, shell("printf out; printf err >&2; exit 3")).await.unwrap();
    assert_eq!((ended.exit_code, &ended.stdout[..], &ended.stderr[..]), (3, &b"out"[..], &b"err"[..]));
    let ended = docker.run(&container.name, ExecCommand::new(["printf-no-such-program"])).await.unwrap();
    assert_eq!(ended.exit_code, 127);
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_not_interpreted() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    let odd = "a b $HOME `id` \"q\" 'q' ; exit 9 # \\ *";
    let ended =
        docker.run(&container.name, ExecCommand::new(["sh", "-c", "printf %s \"$1\"", "x", odd])).await.unwrap();
    assert_eq!((ended.exit_code, ended.stdout), (0, odd.as_bytes().to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_arrives_byte_for_byte() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    let expected: String = (1..=3_000_000).map(|n| format!("{n}\n")).collect();
    let got = whole(&docker, &container.name, ExecCommand::new(["seq", "1", "3000000"])).await.unwrap();
    assert!(got == expected.as_bytes());
    for line in ["printf x", "printf %s 0123456789abcdef0123456789abcdef", ":"] {
        let expected = cli(&["exec", &container.name, "sh", "-c", line]);
        assert_eq!(whole(&docker, &container.name, shell(line)).await.unwrap(), expected.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_whose_process_fails_or_is_killed_is_an_error() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    for (line, code) in
        [("seq 1 1000; echo no disk >&2; exit 1", 1), ("seq 1 1000; echo no disk >&2; kill -KILL $$", 137)]
    {
        let error = whole(&docker, &container.name, shell(line)).await.unwrap_err();
        let Error::DumpFailed { exit_code, stderr_tail, program, .. } = &error else { panic!("{error}") };
        assert_eq!((*exit_code, program.as_str()), (code, "sh"));
        assert!(stderr_tail.starts_with("no disk"), "{stderr_tail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn container_killed_in_the_middle_of_a_dump_is_an_error() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    let mut dump = docker.dump(&container.name, shell("while :; do seq 1 1000; sleep 0.01; done")).await.unwrap();
    assert!(dump.next().await.unwrap().is_some());
    cli(&["kill", &container.name]);
    let error = loop {
        match dump.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("called whole"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::DumpFailed { exit_code: 137, .. }), "{error}");
    // And it stays an error.
    assert!(dump.next().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_a_start_failure_are_never_data() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    container.shell("rm /usr/bin/sh");
    let error = docker.dump(&container.name, ExecCommand::new(["cat", "/etc/passwd"])).await.err().unwrap();
    let Error::NotStarted { exit_code, message, .. } = &error else { panic!("{error}") };
    assert!(matches!(exit_code, 126 | 127));
    assert!(message.contains("executable file not found"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_paused_containers_are_named_as_such() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    cli(&["pause", &container.name]);
    let error = docker.run(&container.name, shell(":")).await.err().unwrap();
    assert!(matches!(error, Error::NotRunning { state: ContainerState::Paused, .. }), "{error}");
    cli(&["unpause", &container.name]);
    cli(&["kill", &container.name]);
    let error = docker.run(&container.name, shell(":")).await.err().unwrap();
    assert!(matches!(error, Error::NotRunning { state: ContainerState::Exited, .. }), "{error}");
    let error = docker.run("ovt-it-no-such-container", shell(":")).await.err().unwrap();
    assert!(matches!(error, Error::NoSuchContainer { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_dump_leaves_no_process_behind() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    for line in [
        "while :; do seq 1 1000; sleep 0.01; done",
        // A process that does not listen, and one that is blocked because nobody reads.
        "trap '' TERM; while :; do seq 1 1000; sleep 0.01; done",
        "seq 1 100000000",
    ] {
        let mut dump = docker.dump(&container.name, shell(line)).await.unwrap();
        assert!(dump.next().await.unwrap().is_some());
        assert!(container.processes().len() > 1);
        dump.cancel().await.unwrap();
        assert_eq!(container.processes(), ["sleep 600"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_dump_leaves_no_process_behind() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&["--cap-drop", "ALL"]);
    let mut command = shell("while :; do seq 1 1000; sleep 0.01; done");
    command.user = Some("999:999".to_owned());
    let mut dump = docker.dump(&container.name, command).await.unwrap();
    assert!(dump.next().await.unwrap().is_some());
    drop(dump);
    alone(&container).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_that_nobody_waits_for_leaves_no_process_behind() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    for wait_millis in [1, 5, 20, 40, 60, 80] {
        let started = docker.exec(&container.name, ExecCommand::new(["sleep", "500"]));
        let _ = tokio::time::timeout(Duration::from_millis(wait_millis), started).await;
    }
    // The last of them has been started by now, or never will be.
    docker.run(&container.name, shell(":")).await.unwrap();
    alone(&container).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_process_is_given_up_and_killed() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    // The second one hangs as mongodump does: it says every now and then how far it is.
    for hang in ["echo begin; sleep 300", "echo begin; while sleep 0.1; do echo '50 %' >&2; done"] {
        let mut command = shell(hang);
        command.idle = Duration::from_millis(500);
        let ended = tokio::time::timeout(Duration::from_secs(60), whole(&docker, &container.name, command)).await;
        let error = ended.expect("it is given up").unwrap_err();
        assert!(matches!(error, Error::Idle { .. }), "{error}");
        assert_eq!(container.processes(), ["sleep 600"]);
    }
}

fn body(pieces: usize) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + Send {
    stream::iter((0..pieces).map(|i| Ok(Bytes::from(vec![u8::try_from(i % 251).unwrap(); 100_000]))))
}

#[tokio::test(flavor = "multi_thread")]
async fn fed_process_reads_everything_and_then_the_end() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    let fed = docker
        .feed(&container.name, shell("cat > /data/fed; wc -c < /data/fed; echo done >&2"), body(200))
        .await
        .unwrap();
    assert_eq!((fed.exit_code, fed.sent, fed.sent_all), (0, 20_000_000, true));
    assert_eq!((fed.stdout_tail.as_str(), fed.stderr_tail.as_str()), ("20000000", "done"));
    let expected: Vec<u8> = (0..200).flat_map(|i: u8| vec![i; 100_000]).collect();
    assert!(whole(&docker, &container.name, ExecCommand::new(["cat", "/data/fed"])).await.unwrap() == expected);
    // One that answers as it reads would block both sides if its output were read only afterwards.
    let fed = docker.feed(&container.name, ExecCommand::new(["cat"]), body(300)).await.unwrap();
    assert_eq!((fed.exit_code, fed.sent_all), (0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn fed_process_that_exits_early_does_not_hang() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    let fed = docker.feed(&container.name, shell("head -c 10 > /dev/null; echo enough >&2; exit 5"), body(2000));
    let fed = tokio::time::timeout(Duration::from_secs(20), fed).await.unwrap().unwrap();
    assert_eq!((fed.exit_code, fed.sent_all, fed.stderr_tail.as_str()), (5, false, "enough"));
}

#[tokio::test(flavor = "multi_thread")]
async fn body_that_fails_is_never_seen_as_an_end_by_the_process() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    let cut = stream::iter([Ok(Bytes::from_static(b"half of it")), Err(BoxError::from("the pack is damaged"))]);
    let fed = docker.feed(&container.name, shell("cat > /data/cut; echo ended > /data/ended"), cut).await;
    let error = fed.err().unwrap();
    assert!(matches!(error, Error::Body { .. }), "{error}");
    assert_eq!(container.processes(), ["sleep 600"]);
    assert_eq!(container.shell("cat /data/cut; ls /data"), "half of itcut");
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_is_neither_in_events_nor_in_arguments() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    let since = cli(&["inspect", "-f", "{{.Created}}", &container.name]);
    let mut command = shell("printf '%s\\n' \"$PASSWORD\"; sleep 300");
    command.env.push(("PASSWORD".to_owned(), Secret::new("canary-7291")));
    let mut exec = docker.exec(&container.name, command).await.unwrap();
    assert_eq!(exec.next().await.unwrap(), Some(Output::Stdout(Bytes::from_static(b"canary-7291\n"))));
    assert!(!container.processes().join("\n").contains("canary"), "{:?}", container.processes());
    exec.kill().await.unwrap();
    let filter = format!("container={}", container.name);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let events = cli(&["events", "--since", &since, "--until", &now.to_string(), "--filter", &filter]);
    assert!(events.contains("exec_create"), "{events}");
    assert!(!events.contains("canary"), "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_and_start_take_what_is_already_so() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&["--init", "--restart", "unless-stopped", "-e", "TOKEN=x=y", "--label", "a=b"]);
    for _ in 0..2 {
        docker.stop(&container.name, Duration::ZERO).await.unwrap();
        assert_eq!(docker.inspect(&container.name).await.unwrap().state, ContainerState::Exited);
    }
    for _ in 0..2 {
        docker.start(&container.name).await.unwrap();
    }
    let found = docker.inspect(&container.name).await.unwrap();
    assert!(found.is_running());
    assert_eq!((found.env["TOKEN"].expose(), found.labels["a"].as_str()), ("x=y", "b"));
    // The daemon would take the beginning of an id; a name is a whole name.
    let short = &found.id[..12];
    assert!(matches!(docker.inspect(short).await.err().unwrap(), Error::NoSuchContainer { .. }));
    let all = docker.containers().await.unwrap();
    assert!(all.iter().any(|other| other.name == container.name));
}
