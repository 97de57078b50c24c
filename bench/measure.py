"""Runs one command: how long it took, what it kept in memory, what it said."""

import os
import platform
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass

MIB = 1024 * 1024
# How far the resident bytes fall, at least, when the key derivation gives its 256 MiB back. Most of it, not half: on
# a busy machine the release itself is seen half done.
RELEASE_BYTES_MIN = 240 * MIB
SAMPLE_SECS = 0.005
# No command of the comparison takes this long unless it hangs.
COMMAND_SECS_MAX = 1800


class CommandFailed(Exception):
    """A command of the comparison did not end with 0."""


@dataclass
class Run:
    """One run: wall and CPU time in seconds, peak resident bytes of the largest process, and both outputs."""

    secs: float
    # On a busy machine this says more than the wall time.
    cpu_secs: float
    peak_bytes: int
    stdout: bytes
    stderr: bytes


def run(argv, env, stdin=None, repository=None, keep_stdout=False, cwd=None, flush=True):
    """Returns the Run of `argv`; standard output goes to /dev/null unless it is kept.

    What earlier commands left to be written is written first, and the input is read once, standard input or the
    `repository`, so that every command starts from the same state: nothing dirty, input in the page cache. Without
    `flush` what is dirty stays so: for long series, whose many runs tell what one does not.
    """
    if stdin:
        warm(stdin)
    if repository:
        for file in files(repository):
            warm(file)
    if flush:
        os.sync()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source = open(stdin, "rb") if stdin else open(os.devnull, "rb")
        with source:
            start = time.monotonic()
            process = subprocess.Popen(
                [str(part) for part in argv],
                env=env,
                cwd=cwd,
                stdin=source,
                stdout=out if keep_stdout else subprocess.DEVNULL,
                stderr=err,
            )
            usage = wait(process)
            secs = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        result = Run(secs, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, out.read(), err.read())
    if process.returncode != 0:
        tail = result.stderr.decode(errors="replace")[-2000:]
        raise CommandFailed(f"{' '.join(map(str, argv))}: exit status {process.returncode}\n{tail}")
    return result


def wait(process):
    """Waits for the process and those that it waited for; returns their resource usage."""
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.alarm(COMMAND_SECS_MAX)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        signal.alarm(0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def output_of(argv, env):
    """Returns a process whose standard output is read by the caller, and its untimed standard error."""
    return subprocess.Popen([str(part) for part in argv], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def peak_after_key_derivation(argv, env):
    """Returns the peak resident bytes of `argv`, those before its key derivation gave its memory back left out.

    Samples the process, which disturbs it: never in a run that is timed.
    """
    process = subprocess.Popen(
        [str(part) for part in argv], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    samples = []
    while process.poll() is None:
        samples.append(resident(process.pid))
        time.sleep(SAMPLE_SECS)
    if process.returncode != 0:
        raise CommandFailed(f"{argv[0]}: exit status {process.returncode}")
    return peak_of(samples)


def peak_of(samples):
    """Returns the largest sample after the key derivation's release, or of all when there was none."""
    highest = 0
    for at, sample in enumerate(samples):
        highest = max(highest, sample)
        if highest - sample >= RELEASE_BYTES_MIN:
            return max(samples[at:])
    return highest


def resident(pid):
    """Returns the resident bytes of a process; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        return 0


def warm(path):
    """Reads a file, so that it lies in the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(4 * MIB):
            pass


def stored_bytes(directory):
    """Returns the bytes of all files below a directory. Directories themselves do not count."""
    return sum(os.lstat(file).st_size for file in files(directory))


def files(directory):
    """Returns the paths of all files below a directory."""
    return [os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names]


def machine():
    """Returns a few words about where this was measured."""
    with open("/proc/cpuinfo") as info:
        models = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    return f"{os.cpu_count()} cores ({models[0] if models else platform.machine()}), Linux {platform.release()}"
