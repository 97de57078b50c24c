"""A stand-in for mongodump where the real one is not at hand: tests only."""

import concurrent.futures
import os
import random
import signal
import struct
import sys
import threading

import bson.json_util
import pymongo
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

import archive
import options as o

VALUED = (*o.CONNECTION, "--numParallelCollections", "--excludeCollection", "--readPreference")
FLAGS = ("--quiet", "--oplog", "--forceTableScan")
NOT_SUPPORTED = ("--gzip", "--out", "-o", "--query", "-q", "--queryFile", "--dumpDbUsersAndRoles", "--viewsAsCollections",
                 "--excludeCollectionsWithPrefix", "--ssl")
# A collection's documents are handed over when the next one would not fit: what makes archives interleave.
BUFFER_BYTES = 16 * 1024 * 1024
BATCH_DOCUMENTS = 5_000
RAW = CodecOptions(document_class=RawBSONDocument)


class Intent:
    """One namespace to dump."""

    def __init__(self, database, collection, kind="collection", metadata="", documents=0):
        self.database, self.collection, self.kind = database, collection, kind
        self.metadata, self.documents = metadata, documents
        self.query = {}

    @property
    def name(self):
        return f"{self.database}.{self.collection}"


class Multiplexer:
    """Writes blocks of several namespaces into one stream."""

    def __init__(self, descriptor):
        self.descriptor = descriptor
        self.lock = threading.Lock()
        self.current = None

    def raw(self, content):
        view = memoryview(content)
        while view:
            view = view[os.write(self.descriptor, view):]

    def documents(self, intent, content):
        with self.lock:
            self.switch_to(intent)
            self.raw(content)

    def close(self, intent, crc):
        with self.lock:
            # A namespace without a document has a block all the same.
            self.switch_to(intent)
            self.raw(archive.TERMINATOR)
            self.raw(archive.namespace_header(intent.database, intent.collection, crc) + archive.TERMINATOR)
            self.current = None

    def switch_to(self, intent):
        if self.current is not intent:
            if self.current is not None:
                self.raw(archive.TERMINATOR)
            self.raw(archive.namespace_header(intent.database, intent.collection))
            self.current = intent


class Dump:
    """One run of the tool."""

    def __init__(self, client, options):
        self.client, self.options = client, options
        self.quiet = "--quiet" in options
        self.stopping = threading.Event()
        self.target = "archive on stdout"
        self.mux = None

    def open(self):
        path = self.options["--archive"]
        if path == "-":
            return Multiplexer(1)
        self.target = f'"archive `{path}`"'
        return Multiplexer(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))

    def run(self):
        database, collection = o.one(self.options, "--db"), o.one(self.options, "--collection")
        parallel = o.number(self.options, "--numParallelCollections", 4)
        if parallel <= 0:
            raise o.Failed("Failed: bad option: numParallelCollections must be positive")
        if collection and not database:
            raise o.Failed("Failed: bad option: cannot dump a collection without a specified database")
        if "--oplog" in self.options and database:
            raise o.Failed("Failed: bad option: --oplog mode only supported on full dumps")
        intents = self.intents(database, collection)
        if collection and not intents:
            o.log(f"namespace with DB `{database}` and collection `{collection}` does not exist", self.quiet)
            return 0
        oplog = [self.oplog_intent()] if "--oplog" in self.options else []
        self.mux = self.open()
        try:
            self.write_prelude(parallel, intents + oplog)
        except OSError as error:
            raise o.Failed(f"Failed: error writing archive prelude: {os.strerror(error.errno).lower()}") from error
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            errors = [error for error in pool.map(self.dump_one, intents) if error]
        errors += [error for error in map(self.dump_one, oplog) if error]
        if errors:
            raise o.Failed(f"Failed: {errors[0]}")
        return 0

    def intents(self, database, collection):
        names = [database] if database else [name for name in self.client.list_database_names() if name not in ("local", "config")]
        found = []
        for name in names:
            try:
                found += list(self.intents_of(name, collection))
            except pymongo.errors.OperationFailure as error:
                raise o.Failed(f"Failed: error creating intents to dump: error getting collections for database `{name}`: "
                               f"({error.details.get('codeName')}) {error.details.get('errmsg')}") from error
        # The longest first: otherwise one of the workers ends alone.
        return sorted(found, key=lambda intent: -intent.documents)

    def intents_of(self, name, only):
        database = self.client[name]
        for entry in database.list_collections():
            collection = entry["name"]
            skipped = "$" in collection or (collection.startswith("system.") and collection != "system.js")
            if skipped or (only and collection != only) or collection in self.options.get("--excludeCollection", ()):
                continue
            is_view = entry["type"] == "view"
            indexes = [] if is_view else [{key: value for key, value in index.items() if key != "ns"}
                                          for index in self.indexes(database, collection)]
            uuid = entry.get("info", {}).get("uuid")
            metadata = {**({"options": entry["options"]} if entry.get("options") else {}), "indexes": indexes,
                        "uuid": bytes(uuid).hex() if uuid else "", "collectionName": collection, "type": entry["type"]}
            text = bson.json_util.dumps(metadata, json_options=bson.json_util.CANONICAL_JSON_OPTIONS,
                                        separators=(",", ":"), ensure_ascii=False)
            count = 0 if is_view else database[collection].estimated_document_count()
            yield Intent(name, collection, entry["type"], text, count)

    def indexes(self, database, collection):
        """Returns the indexes as the server lists them: the driver's own listing leaves fields out."""
        reply = database.command({"listIndexes": collection, "cursor": {"batchSize": 1_000}})
        return reply["cursor"]["firstBatch"]

    def oplog_intent(self):
        newest = self.client.local["oplog.rs"].find_one(sort=[("$natural", -1)])
        if newest is None:
            raise o.Failed("Failed: error getting oplog start: no oplog found")
        intent = Intent("", "oplog", kind="")
        intent.query = {"ts": {"$gte": newest["ts"]}}
        return intent

    def write_prelude(self, parallel, intents):
        server = self.client.server_info()["version"]
        entries = [archive.collection_metadata(each.database, each.collection, each.metadata, each.kind) for each in intents]
        # The real one walks a map, whose order differs from run to run.
        random.shuffle(entries)
        self.mux.raw(archive.MAGIC + archive.header(parallel, server, o.TOOL_VERSION) + b"".join(entries) + archive.TERMINATOR)

    def dump_one(self, intent):
        """Dumps one namespace and returns what went wrong. Closes it in every case: so does the real one, with a CRC that fits."""
        o.log(f"writing `{intent.name}` to {self.shown_target()}", self.quiet)
        state = [0, 0]
        problem = None
        try:
            self.copy_documents(intent, state)
        except (pymongo.errors.PyMongoError, InterruptedError) as error:
            problem = f"error writing data for collection `{intent.name}` to disk: error reading collection: {error}"
        except OSError as error:
            return f"error writing data for collection `{intent.name}` to disk: write {self.target}: {os.strerror(error.errno).lower()}"
        try:
            self.mux.close(intent, state[1])
        except OSError as error:
            return f"archive writer: error writing data for collection `{intent.name}`: {os.strerror(error.errno).lower()}"
        o.log(f"done dumping `{intent.name}` ({o.counted(state[0])})", self.quiet)
        return problem

    def shown_target(self):
        return self.target if self.target.startswith('"') else f"`{self.target}`"

    def copy_documents(self, intent, state):
        """Copies the documents as bytes. `state` is how many, and their CRC so far."""
        if intent.kind == "view":
            return
        source = self.client.local["oplog.rs"] if intent.name == ".oplog" else self.client[intent.database][intent.collection]
        buffer = bytearray()
        for batch in source.with_options(codec_options=RAW).find_raw_batches(intent.query, batch_size=BATCH_DOCUMENTS):
            if self.stopping.is_set():
                raise InterruptedError("received termination signal")
            start = place = 0
            while place < len(batch):
                (length,) = struct.unpack_from("<i", batch, place)
                if len(buffer) + place - start + length > BUFFER_BYTES:
                    buffer += batch[start:place]
                    self.hand_over(intent, buffer, state)
                    start = place
                place += length
                state[0] += 1
            buffer += batch[start:]
        self.hand_over(intent, buffer, state)

    def hand_over(self, intent, buffer, state):
        if buffer:
            content = bytes(buffer)
            self.mux.documents(intent, content)
            state[1] = archive.crc64(content, state[1])
            buffer.clear()


def main(arguments):
    options = o.parse(arguments, VALUED, FLAGS, NOT_SUPPORTED)
    if "--archive" not in options:
        raise o.Failed("Failed: this stand-in writes archives only: --archive is missing")
    try:
        client, _ = o.connect(options)
    except ConnectionError as error:
        raise o.Failed(f"Failed: can't create session: {error}") from error
    dump = Dump(client, options)

    def stop(number, _):
        o.log(f"signal '{'terminated' if number == signal.SIGTERM else 'interrupt'}' received; attempting to shut down")
        dump.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return dump.run()


if __name__ == "__main__":
    sys.exit(o.run("mongodump", main, sys.argv[1:]))
