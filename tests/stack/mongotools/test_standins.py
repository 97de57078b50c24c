"""The stand-ins against archives that the real mongodump made, and against what the real tools print and return."""

import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import bson
import pymongo

import archive
import mongodump
from secantus.server import SecantusDBServer

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parents[1] / "data" / "mongodump"
RUN_LIMIT_SECS = 120


def stored(name):
    path = DATA / name
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def parsed(content):
    """Returns the documents of every namespace, having checked its CRC and that it is closed once."""
    reader = archive.Reader(io.BytesIO(content))
    reader.read_prelude()
    found = {f"{entry['db']}.{entry['collection']}": [] for entry in reader.entries}
    closed = set()
    for header, documents in reader.blocks():
        name = f"{header['db']}.{header['collection']}"
        assert name not in closed, f"{name} is opened again"
        found[name] += documents
        if header["EOF"]:
            crc = archive.crc64(b"".join(found[name]))
            assert crc == header["CRC"] % (1 << 64), f"CRC of {name}"
            closed.add(name)
    assert closed == set(found), "not every namespace is closed"
    return found


def digest(documents):
    """Returns the hash of a collection as expected.json has it: the documents in the order of their `_id`."""
    keyed = sorted(documents, key=lambda document: sort_key(bson.decode(document)["_id"]))
    return hashlib.sha256(b"".join(keyed)).hexdigest()


def sort_key(value):
    return (type(value).__name__, str(value) if isinstance(value, dict) else value)


class ArchivesOfTheRealMongodump(unittest.TestCase):
    def test_every_collection_has_the_documents_that_a_driver_saw(self):
        expected = json.loads((DATA / "expected.json").read_text())
        for name in ("basic.archive", "basic-one-collection.archive", "many.archive", "all-databases.archive"):
            found = parsed(stored(name + ".zst"))
            wanted = {f"{database}.{collection}": facts for database, collections in expected[name]["databases"].items()
                      for collection, facts in collections.items()}
            for namespace, documents in found.items():
                with self.subTest(archive=name, namespace=namespace):
                    facts = wanted[namespace]
                    if facts["type"] == "view":
                        self.assertEqual(documents, [])
                        continue
                    self.assertEqual(len(documents), facts["documents"])
                    self.assertEqual(sum(map(len, documents)), facts["bytes"])
                    self.assertEqual(digest(documents), facts["sha256_of_documents_by_id"])

    def test_the_oplog_is_the_last_namespace(self):
        self.assertEqual(last_closed(stored("oplog.archive.zst")), ".oplog")

    def test_an_archive_of_nothing_is_whole(self):
        self.assertEqual(parsed(stored("empty-database.archive")), {})

    def test_no_part_of_an_archive_is_an_archive(self):
        whole = stored("basic-one-collection.archive.zst")
        for length in range(0, len(whole), 997):
            with self.subTest(length=length), self.assertRaises((archive.ArchiveError, AssertionError)):
                parsed(whole[:length])


def last_closed(content):
    reader = archive.Reader(io.BytesIO(content))
    reader.read_prelude()
    name = ""
    for header, documents in reader.blocks():
        for _ in documents:
            pass
        name = f"{header['db']}.{header['collection']}"
    return name


class TheMultiplexer(unittest.TestCase):
    def test_interleaved_namespaces_come_apart_again(self):
        one, other = mongodump.Intent("db", "one"), mongodump.Intent("db", "other")
        made = {each: [bson.encode({"_id": k, "of": each.collection}) for k in range(3)] for each in (one, other)}
        reading, writing = os.pipe()
        mux = mongodump.Multiplexer(writing)
        entries = [archive.collection_metadata("db", each.collection, "{}", "collection") for each in made]
        mux.raw(archive.MAGIC + archive.header(2, "8.0.0", "test") + b"".join(entries) + archive.TERMINATOR)
        for k in range(3):
            for each, documents in made.items():
                mux.documents(each, documents[k])
        for each, documents in made.items():
            mux.close(each, archive.crc64(b"".join(documents)))
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            self.assertEqual(parsed(file.read()), {each.name: documents for each, documents in made.items()})


class Server(unittest.TestCase):
    """Tests against a server that asks for a password, in this process."""

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        first = SecantusDBServer(host="127.0.0.1", port=0, storage_path=cls.directory.name, replica_set_name="secantus")
        first.start()
        with pymongo.MongoClient("127.0.0.1", first.port, directConnection=True) as client:
            client.admin.command("createUser", "admin", pwd="p:w@ 'x", roles=[{"role": "root", "db": "admin"}])
        first.stop()
        cls.server = SecantusDBServer(host="127.0.0.1", port=0, storage_path=cls.directory.name, require_auth=True,
                                      replica_set_name="secantus")
        cls.server.start()
        cls.config = pathlib.Path(cls.directory.name) / "tools.yaml"
        cls.config.write_text("password: \"p:w@ 'x\"\n")
        cls.address = ["--host", "127.0.0.1", "--port", str(cls.server.port), "--username", "admin",
                       "--authenticationDatabase", "admin"]
        cls.client = pymongo.MongoClient("127.0.0.1", cls.server.port, username="admin", password="p:w@ 'x",
                                         directConnection=True)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.stop()
        cls.directory.cleanup()

    def tool(self, name, *arguments, input=b"", config=True):
        words = [sys.executable, str(HERE / f"{name}.py"), *self.address, *arguments]
        if config:
            words.append(f"--config={self.config}")
        return subprocess.run(words, input=input, capture_output=True, timeout=RUN_LIMIT_SECS)

    def restored(self, content, *arguments):
        done = self.tool("mongorestore", "--archive", *arguments, input=content)
        self.assertEqual(done.returncode, 0, done.stderr.decode()[-2000:])
        return done.stderr.decode()


class RoundTrips(Server):
    def test_what_was_restored_and_dumped_again_has_the_same_documents_and_metadata(self):
        for name in ("basic", "many"):
            content = stored(f"{name}.archive.zst")
            self.assertIn(" 0 document(s) failed", self.restored(content, "--drop", "--stopOnError"))
            done = self.tool("mongodump", "--archive", "--db", name)
            self.assertEqual(done.returncode, 0, done.stderr)
            before, after = parsed(content), parsed(done.stdout)
            self.assertEqual({key: sorted(value) for key, value in after.items()},
                             {key: sorted(value) for key, value in before.items()})
            self.assertEqual(metadata(done.stdout), metadata(content))

    def test_a_collection_dumped_alone_is_alone(self):
        self.restored(stored("basic.archive.zst"), "--drop")
        done = self.tool("mongodump", "--archive", "--db=basic", "--collection=orders", "--quiet")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(list(parsed(done.stdout)), ["basic.orders"])

    def test_only_the_namespaces_asked_for_are_restored(self):
        self.restored(stored("basic.archive.zst"), "--nsInclude=basic.users", "--nsFrom=basic.*", "--nsTo=only.*")
        self.assertEqual(self.client["only"].list_collection_names(), ["users"])

    def test_the_password_may_stand_before_the_archive_on_standard_input(self):
        content = b"p:w@ 'x\n" + stored("basic-one-collection.archive.zst")
        done = self.tool("mongorestore", "--archive", "--drop", "--nsFrom=basic.*", "--nsTo=typed.*", input=content, config=False)
        self.assertIn(b"400 document(s) restored successfully. 0 document(s) failed", done.stderr)
        self.assertEqual(done.returncode, 0)

    def test_a_wrong_password_is_refused(self):
        for tool in ("mongodump", "mongorestore"):
            done = self.tool(tool, "--archive", "--db=basic", input=b"wrong\n", config=False)
            self.assertEqual((done.returncode, done.stdout), (1, b""))
            self.assertIn(b"(AuthenticationFailed)", done.stderr)

    def test_the_configuration_may_come_through_a_descriptor(self):
        reading, writing = os.pipe()
        os.write(writing, self.config.read_bytes())
        os.close(writing)
        done = subprocess.run([sys.executable, str(HERE / "mongodump.py"), *self.address, "--archive", "--db=nothing",
                               f"--config=/dev/fd/{reading}"], pass_fds=(reading,), capture_output=True, timeout=RUN_LIMIT_SECS)
        os.close(reading)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_an_oplog_comes_last_and_only_with_every_database(self):
        done = self.tool("mongodump", "--archive", "--oplog", "--quiet")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(last_closed(done.stdout), ".oplog")
        done = self.tool("mongodump", "--archive", "--oplog", "--db=basic")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"--oplog mode only supported on full dumps", done.stderr)

    def test_a_dump_that_cannot_be_written_fails(self):
        self.restored(stored("basic-one-collection.archive.zst"), "--drop")
        done = self.tool("mongodump", "--archive=/dev/full", "--db=basic")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"Failed: error writing archive prelude: no space left on device", done.stderr)

    def test_more_open_namespaces_than_workers_end_the_restore(self):
        names = [f"c{k}" for k in range(6)]
        content = archive.MAGIC + archive.header(4, "8.0.0", "test")
        content += b"".join(archive.collection_metadata("wide", name, '{"indexes":[]}', "collection") for name in names)
        content += archive.TERMINATOR
        for name in names:
            content += archive.namespace_header("wide", name) + bson.encode({"_id": 1}) + archive.TERMINATOR
        done = self.tool("mongorestore", "--archive", input=content)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"more than 4 namespaces open at once", done.stderr)


def metadata(content):
    """Returns what the prelude says of every namespace, without what a server makes anew."""
    reader = archive.Reader(io.BytesIO(content))
    reader.read_prelude()
    return {entry["collection"]: [entry["type"], re.sub(r'"uuid":"[0-9a-f]*"', "", entry["metadata"])] for entry in reader.entries}


class WhatTheToolsSay(Server):
    """Every situation of what-the-tools-say.json, in its order: some of them need what an earlier one left."""

    def test_exit_codes_and_messages_are_those_of_the_real_tools(self):
        self.restored(stored("basic.archive.zst"), "--drop")
        said = json.loads((DATA / "what-the-tools-say.json").read_text())
        whole = stored("basic.archive.zst")
        inputs = {
            "restore cut at 0.1": whole[: len(whole) // 10], "restore cut at 0.5": whole[: len(whole) // 2],
            "restore cut at 0.9": whole[: len(whole) * 9 // 10], "restore cut at 0.999": whole[: len(whole) * 999 // 1000],
            "restore cut at a block boundary": whole[: first_block_end(whole)],
            "restore one bit flipped in the middle": flipped(whole), "restore empty input": b"",
            "restore not an archive": b"this is not an archive at all" * 9,
            "restore gzip without --gzip": stored("basic-gzip.archive.gz"),
        }
        for situation, facts in said.items():
            with self.subTest(situation=situation):
                done = self.situation(situation, facts, inputs.get(situation, whole))
                mine, theirs = done.stderr.decode(), facts["stderr"]
                self.assertEqual(done.returncode, facts["exit"], mine)
                if facts["tool"] == "mongorestore" or facts["exit"] == 1:
                    self.assertEqual(len(done.stdout), facts["stdout_bytes"])
                for line in telling(theirs, situation):
                    self.assertIn(line, mine)

    def situation(self, name, facts, content):
        if "unreachable" in name:
            words = [sys.executable, str(HERE / f"{facts['tool']}.py"), *facts["arguments"],
                     "--uri=mongodb://127.0.0.1:1/?directConnection=true&serverSelectionTimeoutMS=300"]
            return subprocess.run(words, input=content, capture_output=True, timeout=RUN_LIMIT_SECS)
        return self.tool(facts["tool"], *facts["arguments"], input=content)

    def test_a_cut_archive_has_dropped_what_it_cannot_restore(self):
        whole = stored("basic-one-collection.archive.zst")
        self.restored(whole, "--drop", "--nsFrom=basic.*", "--nsTo=gone.*")
        self.assertEqual(self.client.gone.orders.count_documents({}), 400)
        done = self.tool("mongorestore", "--archive", "--drop", "--nsFrom=basic.*", "--nsTo=gone.*", input=whole[: len(whole) // 2])
        self.assertEqual(done.returncode, 1)
        self.assertLess(self.client.gone.orders.count_documents({}), 400)


def telling(stderr, situation):
    """Returns the parts of the real tool's messages that a program may rely on, and that do not depend on the order in
    which that dump had its collections."""
    if "cut at" in situation:
        return ["error demultiplexing archive; archive io error", "document(s) restored successfully. 0 document(s) failed to restore."]
    if situation == "restore again without drop, stopOnError":
        return ["0 document(s) restored successfully. ", "error restoring from archive on stdin: bulk write exception"]
    if "flipped" in situation:
        return ["Failed: corruption found in archive; ParserConsumer.HeaderBSON() ( CRC mismatch for namespace `basic.big`, "]
    lines = [line.partition("\t")[2] for line in stderr.splitlines()]
    wanted = ("Failed: ", "error ", "document(s) restored", "try '", "dry run", "finished restoring")
    shown = [line for line in lines if line.startswith(wanted) or "document(s) restored" in line]
    if "unreachable" in situation:
        return [re.sub(r"\?directConnection.*", "", line) for line in shown if "connect" in line]
    return shown


def first_block_end(content):
    """Returns where some block ends, about half way."""
    file = io.BytesIO(content)
    reader = archive.Reader(file)
    reader.read_prelude()
    for _, documents in reader.blocks():
        for _ in documents:
            pass
        if file.tell() > len(content) // 2:
            return file.tell()
    raise AssertionError("an archive of one block")


def flipped(content):
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    return bytes(changed)


if __name__ == "__main__":
    unittest.main()
