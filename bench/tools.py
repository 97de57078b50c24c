"""The tools that are compared: where each comes from, and how each does the same four jobs."""

import glob
import json
import os
import shutil
import subprocess
from pathlib import Path

import measure

STREAM = "mongo.archive"
# Not a secret: the repositories hold generated data and are removed at the end.
PASSPHRASE = "the passphrase of the benchmark"
LEVEL = "3"


class Missing(Exception):
    """A tool is not there and cannot be installed."""


def clean_env(home):
    """Returns an environment that knows nothing of the one who measures."""
    keep = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    return {**keep, "HOME": str(home), "LC_ALL": "C.UTF-8", "TMPDIR": str(home)}


class Tool:
    """A backup tool with an empty repository. Each job is one command."""

    name = ""
    reads_stdin = True

    def __init__(self, work):
        self.work = work
        self.repository = work / "repository"
        # What the tool keeps on the host beside the repository.
        self.cache = work / "cache"
        self.password_file = work / "password"
        home = work / "home"
        home.mkdir(parents=True)
        self.password_file.write_text(PASSPHRASE)
        self.password_file.chmod(0o600)
        self.env = clean_env(home)

    def init(self):
        """Makes the repository. Not timed."""
        raise NotImplementedError

    def backup(self, night):
        """Returns the command that stores the stream on its standard input."""
        raise NotImplementedError

    def restore(self):
        """Returns the command that writes the last night to standard output."""
        raise NotImplementedError

    def check(self):
        """Returns the command that reads and verifies every byte."""
        raise NotImplementedError

    def run(self, *argv):
        """Runs a command that is not timed."""
        return measure.run(argv, self.env, keep_stdout=True)


class Restic(Tool):
    name = "restic"

    @staticmethod
    def install(peers):
        binary = peers.root / "restic/usr/bin/restic"
        if not binary.exists():
            peers.unpack("restic", ["restic/unstable"])
        return [binary]

    def __init__(self, command, work):
        super().__init__(work)
        # "auto" is zstd's default level.
        files = {"RESTIC_REPOSITORY": self.repository, "RESTIC_PASSWORD_FILE": self.password_file}
        self.env |= {name: str(path) for name, path in files.items()}
        self.env["RESTIC_CACHE_DIR"] = str(self.cache)
        self.command = [*command, "--quiet", "--compression", "auto"]

    def init(self):
        self.run(*self.command, "init")

    def backup(self, night):
        return [*self.command, "backup", "--stdin", "--stdin-filename", STREAM]

    def restore(self):
        return [*self.command, "dump", "latest", f"/{STREAM}"]

    def check(self):
        return [*self.command, "check", "--read-data"]


class Rustic(Tool):
    name = "rustic"

    @staticmethod
    def install(peers):
        binary = peers.root / "bin/rustic"
        if not binary.exists():
            build = {"CARGO_TARGET_DIR": str(peers.root / "rustic-build")}
            install = ["cargo", "install", "rustic-rs", "--version", "^0.11", "--locked", "--root", peers.root]
            peers.call(install, build)
            # Gigabytes, and of no more use.
            shutil.rmtree(build["CARGO_TARGET_DIR"], ignore_errors=True)
        return [binary]

    def __init__(self, command, work):
        super().__init__(work)
        files = {"RUSTIC_REPOSITORY": self.repository, "RUSTIC_PASSWORD_FILE": self.password_file}
        self.env |= {name: str(path) for name, path in files.items()}
        self.env |= {"RUSTIC_CACHE_DIR": str(self.cache), "RUSTIC_NO_PROGRESS": "true"}
        self.command = [*command, "--log-level", "error"]

    def init(self):
        self.run(*self.command, "init", "--set-compression", LEVEL)

    def backup(self, night):
        # Without --force 0.11.4 takes standard input for unchanged when its name is, and stores the last night
        # again (rustic-rs/rustic#1793). Chunks are deduplicated all the same.
        return [*self.command, "backup", "--force", "--stdin-filename", STREAM, "-"]

    def restore(self):
        return [*self.command, "dump", f"latest:{STREAM}"]

    def check(self):
        return [*self.command, "check", "--read-data"]


class Borg(Tool):
    name = "borg"

    @staticmethod
    def install(peers):
        binary = peers.root / "borg/bin/borg"
        if not binary.exists():
            # It is built from source: the headers are unpacked beside it, not installed.
            names = ["liblz4-1", "liblz4-dev", "libxxhash0", "libxxhash-dev", "libzstd1", "libzstd-dev"]
            names += ["libacl1", "libacl1-dev", "libattr1-dev", "libssl3", "libssl-dev"]
            peers.unpack("sysroot", [f"{name}/{peers.codename}" for name in names])
            peers.call(["python3", "-m", "venv", peers.root / "borg"])
            install = [peers.root / "borg/bin/pip", "install", "--quiet", "borgbackup~=1.4.0"]
            peers.call(install, peers.sysroot_env("sysroot"))
        return [binary]

    def __init__(self, command, work):
        super().__init__(work)
        self.env |= {"BORG_BASE_DIR": str(self.cache), "BORG_PASSPHRASE": PASSPHRASE}
        self.command = command

    def init(self):
        self.run(*self.command, "init", "--encryption", "repokey", self.repository)

    def backup(self, night):
        options = ["--compression", f"zstd,{LEVEL}", "--stdin-name", STREAM]
        self.last = f"{self.repository}::night-{night}"
        return [*self.command, "create", *options, self.last, "-"]

    def restore(self):
        return [*self.command, "extract", "--stdout", self.last]

    def check(self):
        return [*self.command, "check", "--verify-data", self.repository]


class Duplicity(Tool):
    """Reads files only and restores into files only; compresses with GnuPG's zlib. A chain without deduplication."""

    name = "duplicity"
    reads_stdin = False

    @staticmethod
    def install(peers):
        root = peers.root / "duplicity"
        if not (root / "usr/bin/duplicity").exists():
            names = ["duplicity", "librsync2", "libb2-1", "python3-fasteners", "python3-future", "python3-lockfile"]
            peers.unpack("duplicity", [f"{name}/{peers.codename}" for name in names])
        if not shutil.which("gpg"):
            raise Missing("duplicity needs gpg")
        modules = f"PYTHONPATH={root / 'usr/lib/python3/dist-packages'}"
        libraries = f"LD_LIBRARY_PATH={root / 'usr/lib' / peers.multiarch}"
        return ["/usr/bin/env", modules, libraries, "/usr/bin/python3", root / "usr/bin/duplicity"]

    def __init__(self, command, work):
        super().__init__(work)
        self.env |= {"PASSPHRASE": PASSPHRASE}
        self.command = [*command, "--no-print-statistics", "--archive-dir", self.cache]
        self.source = work / "source"
        self.url = f"file://{self.repository}"

    def init(self):
        self.repository.mkdir()

    def place(self, stream):
        """Puts tonight's stream where the tool reads it. Not timed."""
        self.source.mkdir(exist_ok=True)
        target = self.source / STREAM
        target.unlink(missing_ok=True)
        shutil.copyfile(stream, target)

    def backup(self, night):
        return [*self.command, "full" if night == 1 else "incremental", self.source, self.url]

    def restore(self):
        return [*self.command, "restore", "--force", "--file-to-restore", STREAM, self.url, self.work / "restored"]

    def check(self):
        return [*self.command, "verify", self.url, self.source]


class Orkvault(Tool):
    name = "orkvault"

    @staticmethod
    def install(peers):
        # Always built: a binary of yesterday must not be what is measured.
        peers.call(["cargo", "build", "--release", "--locked", "--bin", "orkvault"], cwd=peers.top)
        binary = target_directory(peers.top) / "release/orkvault"
        # Until the command line is there the program starts and knows no command.
        if subprocess.run([binary, "init", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout == b"":
            raise Missing("orkvault has no command line yet")
        return [binary]

    def __init__(self, command, work):
        super().__init__(work)
        # Not where root's real repositories have theirs.
        self.env |= {"ORKVAULT_CACHE_DIR": str(self.cache), "ORKVAULT_STATE_DIR": str(work / "state")}
        self.command = command
        self.init_options = []
        self.secrets_password_file = work / "secrets-password"
        self.secrets_password_file.write_text(PASSPHRASE + " for the secrets")
        self.secrets_password_file.chmod(0o600)
        self.writer = ["-r", self.repository, "--writer-key", work / "writer-key"]
        self.reader = ["-r", self.repository, "--passphrase-file", self.password_file]

    def init(self):
        secrets = ["--secrets-passphrase-file", self.secrets_password_file]
        self.run(*self.command, "init", *self.writer, *self.reader[2:], *secrets, *self.init_options)

    def backup(self, night):
        return [*self.command, "snapshot", "--from", "mongodb=-", *self.writer, "--yes"]

    def restore(self):
        return [*self.command, "dump", "latest", f"mongodb/{STREAM}", *self.reader]

    def check(self):
        return [*self.command, "check", "--read-data", *self.reader, "--json"]


    def layout(self):
        """Returns how the dump of the newest snapshot lies in the repository, as `show --layout` says it."""
        said = self.run(*self.command, "show", "latest", "--layout", "--json", *self.writer).stdout
        return json.loads(said)["layout"][0]


def target_directory(top):
    """Returns where cargo builds."""
    ask = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    metadata = subprocess.run(ask, cwd=top, stdout=subprocess.PIPE, check=True)
    return Path(json.loads(metadata.stdout)["target_directory"])


def key_derivation_secs(report):
    """Returns what orkvault's JSON says about the time of its key derivation; None when it says nothing."""
    try:
        return float(json.loads(report)["key_derivation_secs"])
    except (ValueError, KeyError, TypeError):
        return None


class Peers:
    """Installs the peers below `root`, by package name, without touching what the machine has installed."""

    def __init__(self, top, root):
        self.top = top
        self.root = root
        self.apt_dir = root / "apt"
        self.updated = False
        release = dict(line.rstrip().split("=", 1) for line in open("/etc/os-release") if "=" in line)
        self.codename = release.get("VERSION_CODENAME", "").strip('"')
        self.multiarch = sysconfig_multiarch()

    def call(self, argv, env=None, cwd=None):
        """Runs an installation step; its output is seen."""
        try:
            subprocess.run([str(part) for part in argv], env={**os.environ, **(env or {})}, cwd=cwd, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Missing(str(error)) from error

    def apt(self, *arguments, cwd=None):
        """Runs apt-get with lists and sources of its own."""
        own = {
            "Dir::Etc::SourceList": self.apt_dir / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State::Lists": self.apt_dir / "lists",
            "Dir::Cache": self.apt_dir / "cache",
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "",
        }
        options = [f"-o{name}={value}" for name, value in own.items()]
        self.call(["apt-get", "-qq", *options, *arguments], cwd=cwd)

    def update(self):
        """Fetches the package lists of this machine's release and of Debian unstable, from this machine's mirror."""
        for folder in ("lists/partial", "cache/archives/partial"):
            (self.apt_dir / folder).mkdir(parents=True, exist_ok=True)
        listing = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {self.codename}"]
        mirrors = subprocess.run(listing, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        if not mirrors:
            raise Missing(f"apt knows no mirror of Debian {self.codename}")
        key = "/usr/share/keyrings/debian-archive-keyring.gpg"
        lines = [f"deb [signed-by={key}] {mirrors[0]} {suite} main\n" for suite in ("unstable", self.codename)]
        (self.apt_dir / "sources.list").write_text("".join(lines))
        self.apt("update")
        self.updated = True

    def unpack(self, folder, packages):
        """Downloads packages and unpacks them into a folder: nothing is installed, no script of theirs runs."""
        if not self.updated:
            self.update()
        debs = self.root / "debs" / folder
        debs.mkdir(parents=True, exist_ok=True)
        self.apt("download", *packages, cwd=debs)
        for deb in sorted(glob.glob(f"{debs}/*.deb")):
            self.call(["dpkg-deb", "-x", deb, self.root / folder])

    def sysroot_env(self, folder):
        """Returns the environment in which a build finds the headers and libraries that were unpacked."""
        root = self.root / folder
        libraries = [root / "usr/lib" / self.multiarch, root / "lib" / self.multiarch]
        return {
            "PKG_CONFIG_PATH": f"{libraries[0]}/pkgconfig",
            "CFLAGS": f"-I{root}/usr/include -I{root}/usr/include/{self.multiarch}",
            "LDFLAGS": " ".join(f"-L{path} -Wl,-rpath,{path}" for path in libraries),
        }


def sysconfig_multiarch():
    """Returns Debian's name of this architecture."""
    try:
        ask = ["dpkg-architecture", "-qDEB_HOST_MULTIARCH"]
        listing = subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"{os.uname().machine}-linux-gnu"
    return listing.stdout.strip()


def version(tool, command):
    """Returns the version that a tool gives itself."""
    argv = [*command, "version"] if tool.name == "restic" else [*command, "--version"]
    said = subprocess.run([str(part) for part in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    words = (said.stdout or said.stderr).split()
    numbers = [word.strip("v*,") for word in words if any(letter.isdigit() for letter in word)]
    return numbers[0] if numbers else "unknown"


PEERS = {tool.name: tool for tool in (Restic, Rustic, Borg)}
TOOLS = {**PEERS, Duplicity.name: Duplicity, Orkvault.name: Orkvault}


def install(peers, names, own):
    """Returns the command of every tool that is there, and of the others why not. `own` is orkvault's binary."""
    commands, problems = {}, {}
    for name in names:
        try:
            given = name == Orkvault.name and own
            commands[name] = [own.resolve()] if given else TOOLS[name].install(peers)
        except Missing as why:
            problems[name] = f"missing: {why}"
    return commands, problems
