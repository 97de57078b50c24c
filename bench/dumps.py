"""The generated dumps, and whether a tool gives back what it was given."""

import hashlib
import os
import subprocess

import measure


class WrongBytes(Exception):
    """What a tool gave back is not what it was given."""


class Generator:
    """bench/generate, built below `bench`."""

    def __init__(self, top, bench):
        self.bench = bench
        env = {**os.environ, "CARGO_TARGET_DIR": str(bench / "generate-build")}
        manifest = top / "bench/generate/Cargo.toml"
        build = ["cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", manifest]
        subprocess.run(build, env=env, check=True)

    def nights(self, first, last, mib, seed, out=None):
        """Writes nights `first` to `last` into `out`, else a folder of these options; returns their files."""
        out = out or self.bench / f"dumps-{mib}-{seed}"
        generate = [self.bench / "generate-build/release/generate", "--out", out]
        which = ["--from", str(first), "--nights", str(last), "--mib", str(mib), "--seed", str(seed)]
        subprocess.run([*generate, *which], check=True, stdout=subprocess.DEVNULL)
        return [out / f"night-{night}.archive" for night in range(first, last + 1)]


def compare_restored(tool, night):
    """A tool that is fast because it gives back something else is not compared. Not timed."""
    with open(night, "rb") as file:
        wanted = hashlib.file_digest(file, "sha256").digest()
    if tool.reads_stdin:
        process = measure.output_of(tool.restore(), tool.env)
        found = hashlib.sha256()
        while block := process.stdout.read(1 << 20):
            found.update(block)
        is_same = process.wait() == 0 and found.digest() == wanted
    else:
        with open(tool.work / "restored", "rb") as file:
            is_same = hashlib.file_digest(file, "sha256").digest() == wanted
    if not is_same:
        raise WrongBytes(f"{tool.name} gives back other bytes than it was given")
