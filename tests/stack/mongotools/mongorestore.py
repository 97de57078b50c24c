"""A stand-in for mongorestore where the real one is not at hand: tests only."""

import re
import sys

import bson.json_util
import pymongo
from bson.raw_bson import RawBSONDocument

import archive
import options as o

VALUED = (*o.CONNECTION, "--numParallelCollections", "--numInsertionWorkersPerCollection", "--nsFrom", "--nsTo", "--nsInclude",
          "--nsExclude", "--writeConcern")
FLAGS = ("--quiet", "--drop", "--stopOnError", "--dryRun", "--objcheck", "--maintainInsertionOrder", "--noIndexRestore")
NOT_SUPPORTED = ("--gzip", "--oplogReplay", "--preserveUUID", "--restoreDbUsersAndRoles", "--dir", "--ssl", "--bypassDocumentValidation")
BATCH_DOCUMENTS, BATCH_BYTES = 1_000, 16 * 1024 * 1024
SHOWN_ERRORS = 17


class Namespace:
    """One collection or view on its way into the server."""

    def __init__(self, entry, target):
        self.source = f"{entry['db']}.{entry['collection']}"
        self.database, self.collection = target.split(".", 1)
        self.metadata = bson.json_util.loads(entry["metadata"]) if entry["metadata"] else {}
        self.opened = self.closed = False
        self.batch, self.batch_bytes, self.crc = [], 0, 0
        self.restored = self.failed = 0

    @property
    def name(self):
        return f"{self.database}.{self.collection}"


def pattern(text):
    """Returns a pattern of namespaces as a regular expression: `*` stands for anything."""
    if "$" in text:
        raise o.Failed("Failed: this stand-in does not know $variables$ in namespaces")
    return re.compile("(.*?)".join(map(re.escape, text.split("*"))) + r"\Z", re.S)


class Restore:
    """One run of the tool."""

    def __init__(self, client, options):
        self.client, self.options = client, options
        self.quiet = "--quiet" in options
        self.stop_on_error = "--stopOnError" in options or "--maintainInsertionOrder" in options
        self.restored = self.failed = 0
        self.source = "archive on stdin"
        self.wanted = {}

    def say(self, message):
        o.log(message, self.quiet)

    def run(self):
        try:
            self.restore()
        except (o.Failed, archive.ArchiveError) as error:
            text = str(error)
            self.say(text if text.startswith("Failed: ") else f"Failed: {text}")
            return 1
        except pymongo.errors.PyMongoError as error:
            self.say(f"Failed: error restoring from {self.source}: {error}")
            return 1
        finally:
            self.say(f"{self.restored} document(s) restored successfully. {self.failed} document(s) failed to restore.")
        return 0

    def restore(self):
        renames = self.renames()
        reader = archive.Reader(self.open())
        reader.read_prelude()
        self.say("preparing collections to restore from")
        for entry in reader.entries:
            self.plan(entry, renames)
        if "--dryRun" in self.options:
            self.say("dry run completed")
            return
        for namespace in self.wanted.values():
            self.say(f"reading metadata for `{namespace.name}` from `{self.source}`")
        broken = self.consume(reader)
        if "--noIndexRestore" not in self.options:
            for namespace in self.wanted.values():
                self.restore_indexes(namespace)
        if broken:
            raise broken

    def open(self):
        path = self.options["--archive"]
        if path == "-":
            return sys.stdin.buffer
        self.source = f"archive `{path}`"
        try:
            return open(path, "rb")
        except OSError as error:
            raise o.Failed(f"Failed: stat {path}: no such file or directory") from error

    def renames(self):
        sources, targets = self.options.get("--nsFrom", []), self.options.get("--nsTo", [])
        if len(sources) != len(targets):
            raise o.Failed("Failed: --nsFrom and --nsTo arguments must be specified an equal number of times")
        return [(pattern(source), target) for source, target in zip(sources, targets)]

    def plan(self, entry, renames):
        """Notes a namespace of the prelude, under the name it gets. None stands for one that is read and left out."""
        source = f"{entry['db']}.{entry['collection']}"
        only_db, only_collection = o.one(self.options, "--db"), o.one(self.options, "--collection")
        included, excluded = self.options.get("--nsInclude"), self.options.get("--nsExclude", [])
        if (source == ".oplog" or (only_db and entry["db"] != only_db) or (only_collection and entry["collection"] != only_collection)
                or (included and not any(pattern(each).match(source) for each in included))
                or any(pattern(each).match(source) for each in excluded)):
            return
        target = source
        for expression, replacement in renames:
            if match := expression.match(source):
                parts = iter(match.groups())
                target = re.sub(r"\*", lambda _: next(parts, ""), replacement)
                break
        self.wanted[source] = Namespace(entry, target)

    def consume(self, reader):
        """Feeds the documents to the server and returns what is reported at the end only: a wrong CRC."""
        every = {f"{entry['db']}.{entry['collection']}" for entry in reader.entries}
        workers = max(o.number(self.options, "--numParallelCollections", 4), reader.header["concurrent_collections"])
        open_now, closed, last = set(), set(), None
        try:
            for header, documents in reader.blocks():
                source = f"{header['db']}.{header['collection']}"
                if source not in every:
                    raise archive.ArchiveError(f"corruption found in archive; no intent for namespace `{source}`")
                if source in closed:
                    raise archive.ArchiveError(f"corruption found in archive; namespace `{source}` comes after its end")
                open_now.add(source)
                if len(open_now) > workers:
                    raise o.Failed(f"Failed: more than {workers} namespaces open at once: the real mongorestore waits here for ever")
                namespace = self.wanted.get(source)
                last = namespace or last
                if namespace and not namespace.opened:
                    self.announce(namespace)
                for document in documents:
                    if namespace:
                        self.take(namespace, document)
                if header["EOF"]:
                    open_now.discard(source)
                    closed.add(source)
                    if namespace and (broken := self.finish(namespace, header["CRC"])):
                        return broken
        except archive.CutShort as error:
            raise self.interrupted(last, error) from error
        if every - closed:
            # It waits for the next namespace then, and finds the end: the same words as in the middle of one.
            raise self.interrupted(last, "archive io error")
        return None

    def interrupted(self, namespace, error):
        """Returns the failure of a stream that ends too early; what came before it stays in the server."""
        if namespace is None:
            return o.Failed(f"Failed: {error}")
        if not namespace.closed:
            self.flush(namespace)
            self.say_finished(namespace)
        return o.Failed(f"Failed: {namespace.name}: error restoring from {self.source}: reading bson input: "
                        f"error demultiplexing archive; {error}")

    def announce(self, namespace):
        """Drops and makes the collection: when its first block comes, whatever comes after it."""
        database = self.client[namespace.database]
        exists = namespace.collection in database.list_collection_names(filter={"name": namespace.collection})
        if "--drop" in self.options and exists:
            self.say(f"dropping collection `{namespace.name}` before restoring")
            database.drop_collection(namespace.collection)
            exists = False
        if exists:
            self.say(f"restoring to existing collection `{namespace.name}` without dropping")
        else:
            database.command({"create": namespace.collection, **namespace.metadata.get("options", {})})
        self.say(f"restoring `{namespace.name}` from `{self.source}`")
        namespace.opened = True

    def take(self, namespace, document):
        namespace.crc = archive.crc64(document, namespace.crc)
        namespace.batch.append(RawBSONDocument(document))
        namespace.batch_bytes += len(document)
        if len(namespace.batch) >= BATCH_DOCUMENTS or namespace.batch_bytes >= BATCH_BYTES:
            self.flush(namespace)

    def flush(self, namespace):
        if not namespace.batch:
            return
        batch, namespace.batch, namespace.batch_bytes = namespace.batch, [], 0
        collection = self.client[namespace.database][namespace.collection]
        errors, inserted = [], len(batch)
        try:
            # The driver splits what is too long for one message.
            collection.insert_many(batch, ordered="--maintainInsertionOrder" in self.options)
        except pymongo.errors.BulkWriteError as error:
            errors = [each["errmsg"] for each in error.details["writeErrors"]]
            inserted = error.details["nInserted"]
        namespace.restored += inserted
        namespace.failed += len(batch) - inserted
        self.restored += inserted
        self.failed += len(batch) - inserted
        if errors and self.stop_on_error:
            self.say_finished(namespace)
            more = f", +{len(errors) - SHOWN_ERRORS} more errors..." if len(errors) > SHOWN_ERRORS else ""
            raise o.Failed(f"Failed: {namespace.name}: error restoring from {self.source}: bulk write exception: "
                           f"write errors: [{', '.join(errors[:SHOWN_ERRORS])}{more}]")
        for error in errors:
            self.say(f"continuing through error: {error}")

    def finish(self, namespace, crc):
        self.flush(namespace)
        self.say_finished(namespace)
        namespace.closed = True
        if crc % (1 << 64) != namespace.crc:
            return archive.ArchiveError("corruption found in archive; ParserConsumer.HeaderBSON() ( CRC mismatch for namespace "
                                        f"`{namespace.source}`, {namespace.crc}!={crc % (1 << 64)} )")
        return None

    def say_finished(self, namespace):
        self.say(f"finished restoring `{namespace.name}` ({o.counted(namespace.restored)}, {o.counted(namespace.failed, 'failure')})")

    def restore_indexes(self, namespace):
        indexes = [index for index in namespace.metadata.get("indexes", []) if index["name"] != "_id_"]
        if not indexes or not namespace.opened:
            self.say(f"no indexes to restore for collection `{namespace.name}`")
            return
        self.say(f"restoring indexes for collection `{namespace.name}` from metadata")
        for index in indexes:
            self.say(f"index: {bson.json_util.dumps(index)}")
        try:
            self.client[namespace.database].command({"createIndexes": namespace.collection, "indexes": indexes})
        except pymongo.errors.PyMongoError as error:
            raise o.Failed(f"Failed: {namespace.name}: error creating indexes for {namespace.name}: createIndex error: {error}") from error


def main(arguments):
    options = o.parse(arguments, VALUED, FLAGS, NOT_SUPPORTED)
    if "--archive" not in options:
        raise o.Failed("Failed: this stand-in reads archives only: --archive is missing")
    try:
        client, _ = o.connect(options)
    except ConnectionError as error:
        raise o.Failed(f"error connecting to host: {error}") from error
    return Restore(client, options).run()


if __name__ == "__main__":
    sys.exit(o.run("mongorestore", main, sys.argv[1:]))
