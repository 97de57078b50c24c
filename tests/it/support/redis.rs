//! Redis servers: processes of this machine, and containers made of its programs.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use orkvault::component::docker::Docker;
use orkvault::component::redis::{Access, Place};
use orkvault::component::secret::Secret;

use super::docker::{cli, image_of};

pub(crate) const PASSWORD: &str = "pa ss'w\"ord";

const PROGRAMS: [&str; 11] =
    ["redis-server", "redis-cli", "sh", "cat", "mv", "ln", "rm", "sleep", "ls", "chown", "mkdir"];

/// A redis-server of this machine on a free port of the loopback, with its own directory.
pub(crate) struct LocalServer {
    child: Child,
    pub(crate) port: u16,
    dir: Option<tempfile::TempDir>,
}

impl LocalServer {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args)
    }

    /// Starts a server on a directory that may hold data.
    pub(crate) fn start_in(dir: tempfile::TempDir, args: &[&str]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD])
            .args(["--enable-debug-command", "yes"])
            .args(["--dir", dir.path().to_str().unwrap()])
            .args(args)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        let server = Self { child, port, dir: Some(dir) };
        until("redis-server answers", || server.try_cli(&["PING"]).trim() == "PONG");
        server
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn access(&self, password: Option<&str>) -> Access {
        Access { place: Place::Address(self.address()), user: None, password: password.map(Secret::new) }
    }

    /// Stops it as a host that goes down would, and returns its directory.
    pub(crate) fn stop(mut self) -> tempfile::TempDir {
        self.try_cli(&["SHUTDOWN"]);
        self.child.wait().unwrap();
        self.dir.take().unwrap()
    }

    /// Everything in it.
    pub(crate) fn digest(&self) -> String {
        digest(self.try_cli(&["DEBUG", "DIGEST"]))
    }

    pub(crate) fn try_cli(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(words)
            .env("REDISCLI_AUTH", PASSWORD)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A redis container as Orkestra runs it: no capabilities, `restart: unless-stopped`.
pub(crate) struct RedisContainer {
    pub(crate) name: String,
}

impl RedisContainer {
    /// Starts one: arguments for `docker run`, then for redis-server.
    pub(crate) fn start(docker_args: &[&str], redis_args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static IMAGE: OnceLock<String> = OnceLock::new();
        let image = IMAGE.get_or_init(|| image_of("ovt-it-redis", &PROGRAMS)).as_str();
        let name = format!("ovt-redis-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let fixed = [
            "run",
            "-d",
            "--name",
            &name,
            "--label",
            "orkvault-test=it",
            "--network",
            "none",
            "--restart",
            "unless-stopped",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
        ];
        let server = [image, "redis-server", "--requirepass", PASSWORD, "--enable-debug-command", "yes"];
        cli(&[&fixed, docker_args, &server, redis_args].concat());
        let container = Self { name };
        until("redis in the container answers", || container.try_cli(&["PING"]).trim() == "PONG");
        container
    }

    pub(crate) fn access(&self, docker: &Docker, password: Option<&str>) -> Access {
        let place = Place::Container { docker: docker.clone(), name: self.name.clone(), port: 6379 };
        Access { place, user: None, password: password.map(Secret::new) }
    }

    pub(crate) fn try_cli(&self, words: &[&str]) -> String {
        let auth = format!("REDISCLI_AUTH={PASSWORD}");
        let output =
            Command::new("docker").args(["exec", "-e", &auth, &self.name, "redis-cli"]).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Everything in it.
    pub(crate) fn digest(&self) -> String {
        digest(self.try_cli(&["DEBUG", "DIGEST"]))
    }

    pub(crate) fn running(&self) -> bool {
        cli(&["inspect", "-f", "{{.State.Running}}", &self.name]) == "true"
    }
}

impl Drop for RedisContainer {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.name]).output();
    }
}

/// Asks until it is so, at most a minute.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An error message must not pass for a digest.
fn digest(text: String) -> String {
    assert!(text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    text
}
