"""What comparing one stream with the peers does not show: a large index, many small objects, a database in a container."""

import datetime
import hashlib
import hmac
import http.client
import os
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import quote

import measure
import tools

MIB = 1024 * 1024
USER, PASSWORD = "orkestra", "not-a-real-password"
BUCKET = "objects"
OBJECT_BYTES = 1024
PUTS_AT_ONCE = 8
# As orkvault asks for it; the container knows its own password.
DUMP = (
    "exec mongodump --quiet --archive --numParallelCollections=1 --authenticationDatabase admin"
    ' --username "$MONGO_INITDB_ROOT_USERNAME"'
    ' --password "$MONGO_INITDB_ROOT_PASSWORD" --db "$MONGO_INITDB_DATABASE"'
)
# MinIO answers within a second; a machine that builds something else meanwhile gets half a minute.
START_SECS_MAX = 30


@dataclass
class Row:
    """One figure, and the goal that it is compared with where there is one."""

    what: str
    measured: float
    unit: str
    limit: float | None = None


@dataclass
class Scale:
    """Rows, and why some are missing."""

    rows: list = field(default_factory=list)
    problems: dict = field(default_factory=dict)

    def add(self, what, measured, unit, limit=None):
        self.rows.append(Row(what, measured, unit, limit))

    def lines(self):
        """Returns both as a Markdown table."""
        found = ["| at scale | measured | goal | |", "|---|---|---|---|"]
        for row in self.rows:
            goal = f"≤ {row.limit:g}" if row.limit is not None else ""
            verdict = "" if row.limit is None else "met" if row.measured <= row.limit else "**missed**"
            found.append(f"| {row.what}, {row.unit} | {row.measured:.2f} | {goal} | {verdict} |")
        return found + [f"\n{name}: {why}" for name, why in self.problems.items()]


def index(scale, top, binary, work, night, chunks):
    """Opens, rebuilds and uses the index of a synthetic repository."""
    # Not optimised, as the tests are: what it makes is the same, and nothing of it is timed.
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--example", "synthetic"], cwd=top, check=True)
    shutil.rmtree(work, ignore_errors=True)
    (work / "cache").mkdir(parents=True)
    try:
        subprocess.run([tools.target_directory(top) / "debug/examples/synthetic", work, str(chunks)], check=True)
        tiny = work / "tiny.archive"
        archive = top / "tests/data/mongodump/basic.archive.zst"
        subprocess.run(["zstd", "-d", "-q", archive, "-o", tiny], check=True)
        env = {"PATH": os.environ["PATH"], "HOME": str(work), "TMPDIR": str(work)}
        place = ["-r", work / "repository", "--cache-dir", work / "cache"]
        writer = [*place, "--writer-key", work / "writer-key"]
        snapshot = [binary, "snapshot", "--from", "mongodb=-", *writer, "--yes"]
        rebuilt = measure.run(snapshot, env, stdin=tiny)
        opened = [measure.run(snapshot, env, stdin=tiny) for _ in range(3)]
        stored = measure.run(snapshot, env, stdin=night)
        dump = [binary, "dump", "latest", f"mongodb/{tools.STREAM}", *place, "--passphrase-file", work / "passphrase"]
        restored = measure.peak_after_key_derivation([str(part) for part in dump], env)
        million = f"{chunks / 1e6:g} million chunks"
        secs = median(run.secs for run in opened)
        scale.add(f"{million}: a whole snapshot of half a MiB, index cached", secs, "s", 0.2)
        scale.add(f"{million}: cache rebuilt", rebuilt.secs - secs, "s", 30)
        scale.add(f"{million}: size of the cache", measure.stored_bytes(work / "cache") / MIB, "MiB")
        for what, peak in (
            ("rebuilding", rebuilt.peak_bytes),
            ("first night", stored.peak_bytes),
            ("restore, after key derivation", restored),
        ):
            scale.add(f"{million}: peak memory, {what}", peak / MIB, "MiB", 128)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def objects(scale, top, binary, work, count):
    """Takes a bucket of small objects twice; the second night nothing has changed."""
    subprocess.run([top / "scripts/setup", "minio"], check=True)
    program = minio(top)
    shutil.rmtree(work, ignore_errors=True)
    (work / "store").mkdir(parents=True)
    port, console = free_port(), free_port()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(work),
        "MINIO_ROOT_USER": USER,
        "MINIO_ROOT_PASSWORD": PASSWORD,
        "MINIO_BROWSER": "off",
    }
    addresses = ["--address", f"127.0.0.1:{port}", "--console-address", f"127.0.0.1:{console}"]
    server = subprocess.Popen([program, "server", "--quiet", *addresses, work / "store"], env=env)
    try:
        fill(port, count)
        tool = tools.Orkvault([binary], work)
        tool.init()
        for name, text in (("s3.id", USER), ("s3.key", PASSWORD)):
            (work / name).write_text(text)
            (work / name).chmod(0o600)
        config = work / "orkvault.toml"
        lines = [f'endpoint = "http://127.0.0.1:{port}"', 'access_key_file = "s3.id"', 'secret_key_file = "s3.key"']
        config.write_text("[rustfs]\n" + "\n".join(lines) + "\n")
        config.chmod(0o600)
        snapshot = [binary, "snapshot", "-c", "rustfs", "--config", config, *tool.writer, "--yes"]
        first = measure.run(snapshot, tool.env)
        before = measure.stored_bytes(tool.repository)
        # In turns: a server that slows down slows down both.
        nights, listings = [], []
        for _ in range(3):
            listings.append(listed(port, count))
            nights.append(measure.run(snapshot, tool.env))
        night, listing = median(run.secs for run in nights), median(listings)
        scale.add(f"{count:,} objects of 1 KiB: first night", first.secs, "s")
        scale.add(f"{count:,} objects: the listing itself", listing, "s")
        scale.add(f"{count:,} objects: a night in which nothing changed", night, "s")
        scale.add(f"{count:,} objects: that night / the listing", night / listing, "times", 1.1)
        growth = (measure.stored_bytes(tool.repository) - before) / 3
        scale.add(f"{count:,} objects: growth of that night", growth / 1024, "KiB")
        peak = max(run.peak_bytes for run in [first, *nights])
        scale.add(f"{count:,} objects: peak memory", peak / MIB, "MiB", 128)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(work, ignore_errors=True)


def docker(scale, top, binary, work, seed):
    """Takes a database out of a container, and compares with what the dump alone takes over the same path."""
    name = f"orkb{os.getpid()}"
    stack = top / "tests/stack/stack"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    subprocess.run([top / "scripts/setup"], check=True)
    try:
        subprocess.run([stack, "up", "--name", name, "--seed", seed], check=True, stdout=subprocess.DEVNULL)
        directory = top / "target/stack" / name / "orkestra"
        inside = ["docker", "exec", f"{name}-mongodb-development"]
        dump = [*inside, "sh", "-c", DUMP]
        # In turns, and once before: the server then has everything in memory for all.
        subprocess.run(dump, check=True, stdout=subprocess.DEVNULL)
        dumps, first_nights, next_nights = [], [], []
        for turn in range(3):
            tool = tools.Orkvault([binary], work / str(turn))
            tool.init()
            snapshot = [binary, "snapshot", "-c", "mongodb", "--stack-dir", directory, *tool.writer, "--yes"]
            for nights in (first_nights, next_nights):
                dumps.append(measure.run(dump, tool.env))
                nights.append(measure.run(snapshot, tool.env))
        says = subprocess.run([*inside, "mongodump", "--version"], stdout=subprocess.PIPE, text=True).stdout
        which = "stand-in" if "stand-in" in says else "mongodump"
        # The first night stores everything, the others nothing: each is a whole night.
        secs = median(run.secs for run in dumps)
        scale.add(f"through docker exec: {which} to /dev/null", secs, "s")
        for what, nights in (("first night", first_nights), ("next night", next_nights)):
            night = median(run.secs for run in nights)
            scale.add(f"through docker exec: {what}", night, "s")
            scale.add(f"through docker exec: {what} / {which} to /dev/null", night / secs, "times", 1.05)
    finally:
        subprocess.run([stack, "down", "--name", name], stdout=subprocess.DEVNULL)
        shutil.rmtree(work, ignore_errors=True)


def minio(top):
    """Returns the MinIO that scripts/setup has built."""
    version = re.search(r"^minio_version=(\S+)$", (top / "scripts/setup").read_text(), re.MULTILINE)
    cache = Path(os.environ.get("ORKVAULT_STACK_CACHE", top / "target/stack-cache"))
    return cache / "minio" / version.group(1) / "minio"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fill(port, count):
    """Waits for the server, makes the bucket and puts the objects."""
    deadline = time.monotonic() + START_SECS_MAX
    while True:
        try:
            request(http.client.HTTPConnection("127.0.0.1", port), "PUT", f"/{BUCKET}")
            break
        except (OSError, measure.CommandFailed):
            # It listens before it serves.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)

    def put(numbers):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for number in numbers:
            body = hashlib.shake_256(str(number).encode()).digest(OBJECT_BYTES)
            request(connection, "PUT", f"/{BUCKET}/{number % 100:02}/object-{number:06}", body=body)

    with ThreadPoolExecutor(PUTS_AT_ONCE) as pool:
        list(pool.map(put, [range(first, count, PUTS_AT_ONCE) for first in range(PUTS_AT_ONCE)]))


def listed(port, count):
    """Lists the bucket page by page, looking at nothing but the token of the next one; returns the seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    start, seen, token = time.monotonic(), 0, None
    while True:
        query = {"list-type": "2"} | ({"continuation-token": token} if token else {})
        page = request(connection, "GET", f"/{BUCKET}", query)
        seen += page.count(b"<Contents>")
        found = re.search(rb"<NextContinuationToken>([^<]+)<", page)
        if not found:
            break
        token = found.group(1).decode()
    secs = time.monotonic() - start
    if seen != count:
        raise measure.CommandFailed(f"the server lists {seen} objects, not {count}")
    return secs


def request(connection, method, path, query=None, body=b""):
    """Sends one request, signed as S3 wants it (AWS Signature Version 4), and returns the answer's body."""
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted((query or {}).items()))
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": f"{connection.host}:{connection.port}", "x-amz-content-sha256": digest, "x-amz-date": now}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([method, quote(path), query, lines, names, digest])
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    key = f"AWS4{PASSWORD}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={USER}/{scope}, SignedHeaders={names}, Signature={signature}"
    connection.request(method, quote(path) + (f"?{query}" if query else ""), body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise measure.CommandFailed(f"{method} {path}: {answer.status} {text[:300]!r}")
    return text
