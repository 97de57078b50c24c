"""The docker program, and the daemon where none runs."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from .layout import CACHE, RUNS, StackError

START_LIMIT_SECS = 60
STOP_LIMIT_SECS = 60
# Tried in turn: a nested or stripped machine may lack what the first one needs.
DAEMON_FLAGS = ([], ["--storage-driver=vfs"], ["--storage-driver=vfs", "--iptables=false"])


def docker(*arguments, input=None, check=True):
    """Runs docker and returns its standard output without the last newline."""
    done = subprocess.run(["docker", *arguments], input=input, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise StackError(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout.rstrip("\n")


def answers():
    """Returns whether a daemon answers where the docker program looks for one."""
    done = subprocess.run(["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True)
    return done.returncode == 0


@contextlib.contextmanager
def locked(name):
    """Holds the lock of that name of this cache: two stacks may come up or go down at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure_daemon():
    """Starts dockerd where none answers, and remembers that it was started here."""
    with locked("dockerd"):
        if answers():
            return
        if os.geteuid() != 0:
            raise StackError("no docker daemon answers, and only root can start one")
        if os.environ.get("DOCKER_HOST"):
            raise StackError(f"no docker daemon answers at DOCKER_HOST={os.environ['DOCKER_HOST']}")
        for flags in DAEMON_FLAGS:
            if start_daemon(flags):
                return
        raise StackError(f"dockerd does not start: see {daemon_log()}")


def start_daemon(flags):
    """Starts dockerd with these flags and returns whether it answers."""
    RUNS.mkdir(parents=True, exist_ok=True)
    with open(daemon_log(), "ab") as log:
        child = subprocess.Popen(
            ["dockerd", *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + START_LIMIT_SECS
    while time.monotonic() < deadline and child.poll() is None:
        if answers():
            daemon_record().write_text(json.dumps({"pid": child.pid, "flags": flags}))
            return True
        time.sleep(0.1)
    if child.poll() is None:
        child.terminate()
        child.wait(STOP_LIMIT_SECS)
    return False


def stop_daemon():
    """Stops the daemon that ensure_daemon started, unless a container of anybody is left in it."""
    with locked("dockerd"):
        record = daemon_record()
        if not record.exists():
            return "not ours"
        pid = json.loads(record.read_text())["pid"]
        if not is_dockerd(pid):
            record.unlink()
            return "gone"
        if docker("ps", "--all", "--quiet"):
            return "in use"
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_LIMIT_SECS
        while is_dockerd(pid):
            if time.monotonic() > deadline:
                raise StackError(f"dockerd (pid {pid}) does not stop: see {daemon_log()}")
            time.sleep(0.1)
        record.unlink()
        return "stopped"


def is_dockerd(pid):
    """Returns whether that process is a living dockerd: pids are used again."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    name, state = stat.split("(", 1)[1].rsplit(")", 1)[0], stat.rsplit(")", 1)[1].split()[0]
    return name == "dockerd" and state != "Z"


def daemon_record():
    return RUNS / "dockerd.json"


def daemon_log():
    return RUNS / "dockerd.log"


def inspect(container):
    return json.loads(docker("inspect", container))[0]


def require_programs():
    for program in ("docker", "dockerd", "redis-server", "redis-cli"):
        if shutil.which(program) is None:
            raise StackError(f"{program} is not installed: run scripts/setup")
