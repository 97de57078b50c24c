//! A real daemon and small containers made of this machine's own programs (no image registry).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use orkvault::component::docker::{Docker, Endpoint, EndpointOptions};

/// Programs that the containers of these tests hold, besides the libraries that they need.
const PROGRAMS: [&str; 16] = [
    "sh", "cat", "sleep", "head", "wc", "seq", "mkdir", "ln", "rm", "dd", "ls", "touch", "truncate", "chmod", "chown",
    "env",
];

/// Whether a test that finds no daemon or stack must fail instead of being skipped.
pub(crate) fn required() -> bool {
    std::env::var("ORKVAULT_REQUIRE_STACK").is_ok_and(|value| value == "1")
}

/// Returns the daemon, or `None` (and says so) where there is none and `ORKVAULT_REQUIRE_STACK` is not set.
pub(crate) async fn daemon() -> Option<Docker> {
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let endpoint = Endpoint::resolve(EndpointOptions { docker_host: None, env: &env }).unwrap();
    let answer = match Docker::connect(&endpoint) {
        Ok(docker) => docker.daemon().await.map(|_| docker),
        Err(error) => Err(error),
    };
    match answer {
        Ok(docker) => Some(docker),
        Err(error) if required() => {
            panic!("ORKVAULT_REQUIRE_STACK=1, and docker does not answer: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED: docker does not answer: {error}");
            None
        }
    }
}

/// Runs the docker command and returns its output; panics where it fails.
pub(crate) fn cli(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A container that sleeps until it is dropped.
pub(crate) struct Sleeper {
    pub(crate) name: String,
}

impl Sleeper {
    /// Starts one, with more arguments for `docker run`.
    pub(crate) fn start(args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::start_named(&format!("ovt-it-{}-{count}", std::process::id()), args)
    }

    /// Starts one of this name.
    pub(crate) fn start_named(name: &str, args: &[&str]) -> Self {
        let image = image();
        let fixed = ["run", "-d", "--name", name, "--label", "orkvault-test=it"];
        let network: &[&str] = if args.contains(&"--network") { &[] } else { &["--network", "none"] };
        let command = [image.as_str(), "sleep", "600"];
        cli(&[&fixed, network, args, &command].concat());
        Self { name: name.to_owned() }
    }

    /// Runs a shell line in it, as its root.
    pub(crate) fn shell(&self, line: &str) -> String {
        cli(&["exec", &self.name, "sh", "-c", line])
    }

    /// Returns the commands of all processes in it.
    pub(crate) fn processes(&self) -> Vec<String> {
        let top = cli(&["top", &self.name, "-o", "pid,args"]);
        top.lines().skip(1).map(|line| line.trim().split_once(' ').unwrap().1.trim().to_owned()).collect()
    }

    /// Returns a path in it as this machine's root sees it.
    pub(crate) fn host_path(&self, path: &str) -> String {
        format!("/proc/{}/root{path}", cli(&["inspect", "-f", "{{.State.Pid}}", &self.name]))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.name]).output();
    }
}

/// Makes (once) an image of host programs and returns its name.
pub(crate) fn image() -> String {
    static MADE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    MADE.get_or_init(|| image_of("ovt-it-slim", &PROGRAMS)).clone()
}

/// Makes an image of these programs of this machine, with their libraries, and returns its full name.
pub(crate) fn image_of(name: &str, programs: &[&str]) -> String {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for dir in ["usr/bin", "tmp", "data", "etc"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nredis:x:999:999::/data:/bin/sh\n").unwrap();
    let mut hasher = blake3::Hasher::new();
    for program in programs {
        let found = ["/usr/bin", "/bin"].map(|dir| Path::new(dir).join(program));
        let found = found.iter().find(|path| path.exists()).unwrap();
        let bytes = std::fs::read(found).unwrap();
        hasher.update(&bytes);
        std::fs::write(root.join("usr/bin").join(program), bytes).unwrap();
        cli_other("chmod", &["755", root.join("usr/bin").join(program).to_str().unwrap()]);
        let libraries = Command::new("ldd").arg(found).output().unwrap();
        for library in
            String::from_utf8(libraries.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/'))
        {
            let inside = root.join(library.trim_start_matches('/'));
            std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
            std::fs::copy(library, inside).unwrap();
        }
    }
    let name = format!("{name}:{}", &hasher.finalize().to_hex()[..16]);
    if Command::new("docker")
        .args(["image", "inspect", &name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
    {
        return name;
    }
    let mut tar = Command::new("tar")
        .args(["--numeric-owner", "--owner=0", "--group=0", "-c", "-C", root.to_str().unwrap(), "."])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let imported = Command::new("docker")
        .args(["import", "-c", "ENV PATH=/usr/bin", "-", &name])
        .stdin(tar.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(tar.wait().unwrap().success() && imported.success());
    name
}

fn cli_other(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().unwrap().success());
}
