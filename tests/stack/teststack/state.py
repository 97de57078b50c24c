"""Everything that a stack holds, in a form that two times can be compared by."""

import base64
import concurrent.futures
import hashlib
import stat
import struct

import bson.json_util

from . import clients

PARTS = ("mongodb", "redis", "rustfs", "secrets")
# Where a restore may leave what came after the snapshot.
MERGED = ("mongodb", "rustfs")
NOT_OURS = {"admin", "local", "config"}
# Orkestra's health check writes it every ten seconds where Redis has no password.
HEALTH_CHECK_KEY = b"ping"
HEADERS = ("ContentType", "CacheControl", "ContentEncoding", "ContentDisposition", "ContentLanguage", "WebsiteRedirectLocation")
READERS = 12
# What a restore of secrets kept of a file that differed: it is no key, and no snapshot has it either.
KEPT_MARK = ".orkvault-before-"


def read(run):
    return {"mongodb": read_mongodb(run), "redis": read_redis(run), "rustfs": read_rustfs(run), "secrets": read_secrets(run)}


def read_mongodb(run):
    with clients.mongo(run) as client:
        return {name: read_database(client[name]) for name in sorted(client.list_database_names()) if name not in NOT_OURS}


def read_database(database):
    found = {}
    for entry in database.list_collections():
        name = entry["name"]
        if name.startswith("system."):
            continue
        options = bson.json_util.dumps(entry.get("options", {}))
        if entry["type"] == "view":
            found[name] = {"type": "view", "options": options}
        else:
            found[name] = {"type": entry["type"], "options": options, "indexes": read_indexes(database[name]),
                           **read_documents(clients.raw(database)[name])}
    return found


def read_indexes(collection):
    """Returns each index with everything it has but its namespace, which a rename changes."""
    return sorted(bson.json_util.dumps({key: value for key, value in sorted(index.to_dict().items()) if key != "ns"})
                  for index in collection.list_indexes())


def read_documents(collection):
    """Returns count, bytes and a hash of the documents as bytes, in the order of the hash of their `_id`: natural
    order is not promised by anybody."""
    hashes, size = [], 0
    for batch in collection.find_raw_batches(batch_size=5_000):
        place = 0
        while place < len(batch):
            (length,) = struct.unpack_from("<i", batch, place)
            hashes.append(hashlib.sha256(batch[place : place + length]).digest())
            place += length
        size += len(batch)
    # Equal sets of documents give equal sorted lists: `_id` is part of what was hashed.
    return {"documents": len(hashes), "bytes": size, "sha256": hashlib.sha256(b"".join(sorted(hashes))).hexdigest()}


def read_redis(run):
    with clients.redis_client(run) as client:
        databases = sorted(client.info("keyspace"))
    found = {}
    for database in databases:
        with clients.redis_client(run, db=int(database.removeprefix("db"))) as client:
            keys = sorted(key for key in client.scan_iter(count=2_000) if key != HEALTH_CHECK_KEY)
            for first in range(0, len(keys), 1_000):
                some = keys[first : first + 1_000]
                for key, value in zip(some, read_keys(client, some)):
                    found[f"{database}/{printable(key)}"] = value
    return found


def read_keys(client, keys):
    """Yields type, moment of expiry and hash of the value of each key: what DUMP gives depends on encodings."""
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.type(key)
        pipe.pexpiretime(key)
    answers = pipe.execute()
    for key, kind, expires in zip(keys, answers[::2], answers[1::2]):
        ask_value(pipe, key, kind.decode())
    for kind, expires, value in zip(answers[::2], answers[1::2], pipe.execute()):
        if isinstance(value, dict):
            value = sorted(value.items())
        elif isinstance(value, set):
            value = sorted(value)
        yield {"type": kind.decode(), "expires_at_millis": expires, "sha256": hashlib.sha256(repr(value).encode()).hexdigest()}


def ask_value(pipe, key, kind):
    {
        "string": lambda: pipe.get(key),
        "hash": lambda: pipe.hgetall(key),
        "list": lambda: pipe.lrange(key, 0, -1),
        "set": lambda: pipe.smembers(key),
        "zset": lambda: pipe.zrange(key, 0, -1, withscores=True),
        "stream": lambda: pipe.execute_command("XINFO", "STREAM", key, "FULL", "COUNT", 0),
    }[kind]()


def read_rustfs(run):
    client = clients.s3(run)
    found = {}
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        for bucket in sorted(each["Name"] for each in client.list_buckets()["Buckets"]):
            keys = [each["Key"] for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
                    for each in page.get("Contents", [])]
            found[bucket] = dict(zip(keys, pool.map(lambda key: read_object(client, bucket, key), keys)))
    return found


def read_object(client, bucket, key):
    answer = client.get_object(Bucket=bucket, Key=key)
    digest, size = hashlib.sha256(), 0
    for part in answer["Body"].iter_chunks(1 << 20):
        digest.update(part)
        size += len(part)
    tags = []
    if answer.get("TagCount"):
        tags = sorted([each["Key"], each["Value"]] for each in client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"])
    return {"sha256": digest.hexdigest(), "bytes": size, "headers": {name: answer[name] for name in HEADERS if name in answer},
            "metadata": answer["Metadata"], "tags": tags}


def read_secrets(run):
    found = {}
    keys = run.stack_dir / "docker" / "keys"
    for path in [run.env_file, *(sorted(keys.iterdir()) if keys.is_dir() else [])]:
        if path.is_file() and KEPT_MARK not in path.name:
            found[str(path.relative_to(run.stack_dir))] = {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "mode": oct(stat.S_IMODE(path.stat().st_mode))}
    return found


def printable(key):
    try:
        return key.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(key).decode()


def compare(first, second, parts, map_db=None, allow_added=False):
    """Returns what was compared, in lines, and every difference, in lines.

    With `allow_added`, collections, buckets and objects that only the second state has are counted, not reported: a
    restore that merges leaves them where they are.
    """
    lines, differences = [], []
    for part in parts:
        one, other = first[part], second[part]
        if part == "mongodb" and map_db:
            source, target = map_db.split("=", 1)
            one, other = {map_db: one.get(source, {})}, {map_db: other.get(target, {})}
        added = 0
        if allow_added and part in MERGED:
            other, added = without_added(one, other)
        found = differ(part, one, other)
        differences += found
        verdict = "NOT equal" if found else "equal" + (f", and {added} that came later are still there" if added else "")
        lines.append(f"compared {part}: {describe(part, one)}: {verdict}")
    return lines, differences


def without_added(one, other):
    """Returns the other side without the collections or objects that the one does not have, and how many those are."""
    kept = {outer: {name: value for name, value in inner.items() if name in one[outer]}
            for outer, inner in other.items() if outer in one}
    return kept, sum(map(len, other.values())) - sum(map(len, kept.values()))


def differ(path, one, other):
    """Returns a line for each place where the two differ, and goes no deeper than a missing side."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [f"{path}: {one!r} became {other!r}"]
    found = []
    for name in sorted(one.keys() | other.keys()):
        if name not in other:
            found.append(f"{path}/{name}: gone")
        elif name not in one:
            found.append(f"{path}/{name}: was not there")
        else:
            found += differ(f"{path}/{name}", one[name], other[name])
    return found


def describe(part, state):
    if part == "mongodb":
        every = [each for database in state.values() for each in database.values()]
        return (f"{len(every)} collections and views, {sum(each.get('documents', 0) for each in every)} documents "
                f"({sum(each.get('bytes', 0) for each in every)} bytes), {sum(len(each.get('indexes', [])) for each in every)} indexes")
    if part == "rustfs":
        every = [each for bucket in state.values() for each in bucket.values()]
        return (f"{len(state)} buckets, {len(every)} objects ({sum(each['bytes'] for each in every)} bytes), "
                "their headers, metadata and tags")
    return f"{len(state)} {'keys with type, value and expiry' if part == 'redis' else 'files with content and mode'}"
