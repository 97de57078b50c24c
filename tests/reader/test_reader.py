"""The second reader restores the committed repository, and refuses what the document says is to be refused."""

import contextlib
import io
import json
import shutil
import tempfile
import unittest
import urllib.parse
from pathlib import Path

from blake3 import blake3

import orkvault_reader
from layouts import parse_page, parse_row, parse_rows, read_page, row_size
from orkvault_reader import CONTENT_PACK, DATA, META_PACK, SECRETS, Repository
from primitives import Cursor, Refused, hchacha20, varint

REPOS = Path(__file__).resolve().parent.parent / "repos" / "v1"
SMALL = REPOS / "small"


def beside(name):
    return (REPOS / f"small.{name}").read_bytes()


def open_all(path=SMALL, **options):
    return Repository(path, beside("data-passphrase"), beside("secrets-passphrase"), **options)


def facts(data, attributes=None):
    found = {"length": len(data), "blake3": blake3(data).hexdigest()}
    return found if attributes is None else found | {"version": attributes["version"].decode()}


def describe(repository):
    """Reads everything and says what there is, as the expectations do."""
    snapshots = []
    for snapshot, manifest in repository.snapshots().items():
        details = manifest["orkvault"]
        memory = details["components"]["memory"]
        streams = {name: b"".join(repository.stream(record)) for name, record in memory["streams"].items()}
        rows = ((row, b"".join(repository.entry_content(row))) for row in repository.rows(memory["entries"]))
        catalogue = repository.catalogue(memory["catalogue"])
        secrets = repository.secrets(details["secrets"]["snapshot"])
        snapshots.append({
            "id": snapshot,
            "createdAt": manifest["createdAt"],
            "streams": {name: facts(content) for name, content in streams.items()},
            "entries": {row.key.decode(): facts(content, row.attributes) for row, content in rows},
            "catalogue": [[row["name"], row["kind"], row["records"], row["bytes"]] for row in catalogue],
            "secrets": {key.decode(): facts(content, attributes) for key, attributes, content in secrets},
        })
    return {"snapshots": snapshots}


def run(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        orkvault_reader.main([str(argument) for argument in arguments])
    return out.getvalue()


class Restores(unittest.TestCase):
    def setUp(self):
        self.expected = json.loads(beside("expected.json"))

    def test_everything_comes_back_as_it_was_captured(self):
        self.assertEqual(describe(open_all()), self.expected)

    def test_without_the_index_the_directories_of_the_packs_do(self):
        scanned, listed = open_all(use_index=False), open_all()
        self.assertEqual(scanned.load_index(), listed.load_index())
        self.assertEqual(describe(scanned), self.expected)

    def test_the_repository_has_one_of_every_layout(self):
        repository = open_all()
        places = [place for found in repository.load_index().values() for place in found]
        self.assertEqual({place.kind for place in places}, {CONTENT_PACK, META_PACK})
        self.assertEqual({place.codec for place in places}, {0, 1})
        packs = {place.pack for place in places if place.offset > place.header_length}
        self.assertTrue(packs, "a pack of several segments")
        latest = list(repository.snapshots().values())[-1]["orkvault"]["components"]["memory"]
        rows = list(repository.rows(latest["entries"]))
        self.assertEqual({row.form for row in rows}, {1, 2})
        self.assertIn((b"avatars/empty", 0, []), [(row.key, row.length, row.extents) for row in rows])

    def test_nights_share_their_chunks_and_name_each_other(self):
        repository = open_all()
        chunks = []
        for manifest in repository.snapshots().values():
            record = manifest["orkvault"]["components"]["memory"]["streams"]["dump"]
            extents = repository.extents(bytes.fromhex(record["recipe"]), record["length"])
            chunks.append([extent[0] for extent in extents])
        self.assertGreater(len(set(chunks[0])), 20)
        self.assertGreater(len(set(chunks[0]) & set(chunks[1])), 10)
        self.assertNotEqual(set(chunks[0]), set(chunks[1]))
        before = None
        for sequence, (snapshot, manifest) in enumerate(repository.snapshots().items(), start=1):
            writer = manifest["orkvault"]["writer"]
            self.assertEqual((writer["sequence"], writer.get("previous")), (sequence, before))
            stored = (SMALL / "data/snapshots" / snapshot).read_bytes()
            before = [{"snapshot": snapshot, "blake3": blake3(stored).hexdigest()}]

    def test_the_command_lists_and_restores(self):
        keys = ("--passphrase-file", REPOS / "small.data-passphrase",
                "--secrets-passphrase-file", REPOS / "small.secrets-passphrase")
        lines = run(SMALL, *keys, "list").splitlines()
        self.assertEqual([line.split()[0] for line in lines], [night["id"] for night in self.expected["snapshots"]])
        for wanted, place in ((lines[0].split()[0], 0), ("latest", -1)):
            night = self.expected["snapshots"][place]
            with tempfile.TemporaryDirectory() as out:
                run(SMALL, *keys, "restore", wanted, out)
                for folder, expected in (("memory/streams", night["streams"]), ("memory/entries", night["entries"]),
                                         ("secrets/entries", night["secrets"])):
                    paths = (Path(out) / folder).iterdir()
                    found = {urllib.parse.unquote(path.name): path.read_bytes() for path in paths}
                    self.assertEqual({name: len(data) for name, data in found.items()},
                                     {name: row["length"] for name, row in expected.items()})
                    for name, data in found.items():
                        self.assertEqual(blake3(data).hexdigest(), expected[name]["blake3"])


class TwoStores(unittest.TestCase):
    """The secrets are in a store of their own (1)."""

    data, secrets = REPOS / "apart" / "data", REPOS / "apart" / "secrets"

    def test_both_together_restore(self):
        repository = open_all(self.data, secrets_path=self.secrets)
        (snapshot, manifest), = repository.snapshots().items()
        self.assertEqual(manifest["orkvault"]["secrets"]["location"], "memory")
        files = repository.secrets(manifest["orkvault"]["secrets"]["snapshot"])
        self.assertEqual([key for key, _, _ in files], [b".env", b"keys/jwt-private.pem"])
        keys = ("--passphrase-file", REPOS / "small.data-passphrase",
                "--secrets-passphrase-file", REPOS / "small.secrets-passphrase")
        with tempfile.TemporaryDirectory() as out:
            run(self.data, "--secrets-repository", self.secrets, *keys, "restore", snapshot, out)
            self.assertTrue((Path(out) / "memory/streams/dump").read_bytes())
            self.assertTrue((Path(out) / "secrets/entries/.env").read_bytes())

    def test_each_alone_opens_with_its_own_passphrase_and_no_other(self):
        data = Repository(self.data, beside("data-passphrase"))
        self.assertEqual((len(data.snapshots()), data.snapshots(SECRETS)), (1, {}))
        secrets = Repository(self.secrets, secrets_passphrase=beside("secrets-passphrase"))
        self.assertEqual([len(secrets.secrets(snapshot)) for snapshot in secrets.snapshots(SECRETS)], [2])
        with self.assertRaisesRegex(Refused, "no whole key slot"):
            Repository(self.data, secrets_passphrase=beside("secrets-passphrase"))
        with self.assertRaisesRegex(Refused, "no whole key slot"):
            Repository(self.secrets, beside("data-passphrase"))

    def test_a_store_of_other_secrets(self):
        for data, secrets in ((self.data, SMALL), (self.data, self.data), (self.secrets, self.data),
                              (SMALL, self.secrets)):
            with self.subTest(data=data, secrets=secrets), self.assertRaises(Refused):
                open_all(data, secrets_path=secrets)


class Refuses(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.copy = Path(temporary.name) / "copy"
        shutil.copytree(SMALL, self.copy)

    def read_all(self, **options):
        writer = Repository(self.copy, writer_line=beside("writer-key"), **options)
        self.assertEqual(len(writer.snapshots()), 3)
        return describe(open_all(self.copy, **options))

    def test_a_flipped_byte_anywhere(self):
        self.enterContext(contextlib.redirect_stderr(io.StringIO()))
        objects = [path for path in sorted(self.copy.rglob("*")) if path.is_file()]
        self.assertGreater(len(objects), 12)
        for path in objects:
            data = path.read_bytes()
            for place in (9, len(data) // 3, len(data) - 1):
                with self.subTest(path=path.relative_to(self.copy), place=place):
                    path.write_bytes(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :])
                    with self.assertRaises(Refused):
                        self.read_all()
            path.write_bytes(data)
        self.read_all()

    def test_a_damaged_slot_only_where_there_is_no_other(self):
        slot = max((self.copy / "keys").iterdir(), key=lambda path: path.stat().st_size)  # the writer's
        slot.write_bytes(slot.read_bytes()[:-1] + b"!")
        with contextlib.redirect_stderr(io.StringIO()) as warned:
            self.assertEqual(describe(open_all(self.copy)), json.loads(beside("expected.json")))
            with self.assertRaisesRegex(Refused, "no whole key slot"):
                Repository(self.copy, writer_line=beside("writer-key"))
        self.assertIn("is damaged", warned.getvalue())

    def test_an_object_that_is_gone_or_cut_off(self):
        for folder in ("data/packs", "data/index", "secrets/bundles"):
            path = next(path for path in sorted((self.copy / folder).rglob("*")) if path.is_file())
            data = path.read_bytes()
            path.write_bytes(data[:-1])
            with self.subTest(folder=folder), self.assertRaises(Refused):
                self.read_all()
            path.unlink()
            with self.subTest(folder=folder), self.assertRaises(Refused):
                self.read_all()
            path.write_bytes(data)

    def forge(self, path, place):
        """Flips a bit and makes checksum and name right again, as an enemy would. Packs have no checksum."""
        data = bytearray(path.read_bytes())
        path.unlink()
        data[place] ^= 1
        is_pack = path.parent.parent.name == "packs"
        if not is_pack:
            data[-32:] = blake3(bytes(data[:-32])).digest()
        if not is_pack and path.parent.name not in ("index", "bundles"):
            path.write_bytes(data)
            return
        name = blake3(bytes(data)).hexdigest()
        folder = path.parent.parent / name[:2] if is_pack else path.parent
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)

    def test_a_changed_byte_under_a_right_checksum(self):
        self.enterContext(contextlib.redirect_stderr(io.StringIO()))
        pristine = self.copy.parent / "pristine"
        shutil.copytree(self.copy, pristine)
        # Header, commitment, sealed bytes; of packs the key entry, a segment and the directory.
        sealed = (13, 50, 200)
        places = {"config": (60, -40), "keys": (40, 70, -60), "data/snapshots": sealed, "secrets/snapshots": sealed,
                  "data/index": sealed, "data/packs": (12, 100, 1500, -30)}
        for folder, flips in places.items():
            for place in flips:
                shutil.rmtree(self.copy)
                shutil.copytree(pristine, self.copy)
                paths = [self.copy / folder] if folder == "config" else sorted((self.copy / folder).rglob("*"))
                largest = max((path for path in paths if path.is_file()), key=lambda path: path.stat().st_size)
                self.forge(largest, place)
                with self.subTest(folder=folder, place=place), self.assertRaises(Refused):
                    # What a pack's new name would hide from the index, its directory shows.
                    self.read_all(use_index=folder != "data/packs")

    def test_a_bundle_whose_bytes_were_changed_under_its_name(self):
        repository = open_all(self.copy)
        snapshot = next(iter(repository.snapshots(SECRETS)))
        manifest = repository.snapshot(snapshot, SECRETS)
        path = self.copy / "secrets/bundles" / manifest["bundle"]
        for place in (20, 60, 90, 700, 1260, 5000):
            data = bytearray((SMALL / "secrets/bundles" / path.name).read_bytes())
            data[place] ^= 1
            data[-32:] = blake3(bytes(data[:-32])).digest()
            forged = path.with_name(blake3(bytes(data)).hexdigest())
            forged.write_bytes(data)
            repository.snapshot = lambda *_, name=forged.name: manifest | {"bundle": name}
            with self.subTest(place=place), self.assertRaises(Refused):
                repository.secrets(snapshot)

    def test_a_snapshot_under_another_name(self):
        path = next((self.copy / "data/snapshots").iterdir())
        path.rename(path.with_name("0" * 64))
        with self.assertRaisesRegex(Refused, "does not belong here"):
            self.read_all()

    def test_a_wrong_passphrase(self):
        with self.assertRaisesRegex(Refused, "wrong passphrase"):
            Repository(self.copy, b"wrong horse data")
        with self.assertRaisesRegex(Refused, "wrong passphrase"):
            Repository(self.copy, beside("secrets-passphrase"))
        with self.assertRaisesRegex(Refused, "wrong passphrase"):
            Repository(self.copy, secrets_passphrase=beside("data-passphrase"))

    def test_the_data_passphrase_opens_no_bundle(self):
        snapshot = next(iter(open_all().snapshots(SECRETS)))
        data = Repository(self.copy, beside("data-passphrase"))
        with self.assertRaisesRegex(Refused, "no key of the namespace secrets"):
            data.secrets(snapshot)
        # Not even with the write root of the secrets, which the writer has: the seed is another.
        both = Repository(self.copy, beside("data-passphrase"), writer_line=beside("writer-key"))
        with self.assertRaisesRegex(Refused, "these keys open no bundle"):
            both.secrets(snapshot)
        both.keys[SECRETS].pairs = both.keys[DATA].pairs
        with self.assertRaisesRegex(Refused, "data key: the cipher refuses it"):
            both.secrets(snapshot)

    def test_the_writer_reads_structure_and_no_content(self):
        writer = Repository(self.copy, writer_line=beside("writer-key"))
        manifest = list(writer.snapshots().values())[-1]["orkvault"]
        memory = manifest["components"]["memory"]
        rows = list(writer.rows(memory["entries"]))
        self.assertEqual(len(rows), memory["entries"]["rows"])
        with self.assertRaisesRegex(Refused, "these keys open no content"):
            list(writer.stream(memory["streams"]["dump"]))
        with self.assertRaisesRegex(Refused, "these keys open no bundle"):
            writer.secrets(manifest["secrets"]["snapshot"])

    def test_the_key_of_another_repository(self):
        line = beside("writer-key").split(b":")
        line[1] = b"00" * 32
        with self.assertRaisesRegex(Refused, "another repository"):
            Repository(self.copy, writer_line=b":".join(line))


class GoldenVectors(unittest.TestCase):
    """What the small repository has none of."""

    def read(self, name):
        return json.loads((REPOS.parent.parent / "golden" / "v1" / name).read_text())

    def test_recipe_pages(self):
        pages = self.read("recipes.json")["pages"]
        self.assertGreater(len(pages), 1)
        for name, page in pages.items():
            with self.subTest(page=name):
                extents = parse_page(bytes.fromhex(page["encoded"]))
                found = [[chunk.hex(), *numbers] for chunk, *numbers in extents]
                self.assertEqual(found, page["extents"])

    def test_recipe_edits(self):
        edits = self.read("recipes.json")["edits"]
        stored = {bytes.fromhex(edit["id"]): bytes.fromhex(edit["encoded"]) for edit in edits}
        self.assertGreater(len(stored), 2)
        for edit in edits:
            extents = read_page(stored.__getitem__, bytes.fromhex(edit["id"]))
            self.assertEqual([[chunk.hex(), *numbers] for chunk, *numbers in extents], edit["extents"])
        # A chain that leads back to itself, or whose depths do not descend, is refused.
        first, *_, last = stored
        for wrong in (last, first):
            with self.assertRaises(Refused):
                read_page(lambda chunk: stored[wrong] if chunk != last else stored[last], last)

    def test_entry_rows(self):
        vector = self.read("entries.json")
        data = bytes.fromhex(vector["table"])
        # The rows of the vector are in no order; as one piece and byte by byte they are the same.
        with self.assertRaisesRegex(Refused, "out of order"):
            list(parse_rows([data]))
        rows, at = [], 0
        while at < len(data):
            size = row_size(data[at:])
            row = parse_row(data[at + size[0] : at + sum(size)])
            alone = data[at : at + sum(size)]
            self.assertEqual(list(parse_rows(alone[place : place + 1] for place in range(len(alone)))), [row])
            rows, at = [*rows, row], at + sum(size)
        self.assertEqual({row.form for row in rows}, {0, 1, 2})

    def test_a_page_has_one_encoding(self):
        def page(lengths, count, *numbers):
            table = b"".join(bytes([place]) * 32 + varint(length) for place, length in enumerate(lengths))
            return b"\0" + varint(len(lengths)) + table + varint(count) + b"".join(map(varint, numbers))

        self.assertEqual(len(parse_page(page([100, 100], 1, 2 << 2))), 2)
        twins = {
            "runs that should be one": page([100, 100], 2, 1 << 2, 1 << 2),
            "a start that is stated for nothing": page([100, 100], 1, 2 << 2 | 1, 0),
            "an empty run": page([100, 100], 2, 2 << 2, 0),
            "the whole as a range": page([100], 1, 2, 0, 100),
            "ranges that continue each other": page([100], 2, 2, 0, 50, 2, 50, 20),
            "an unused chunk": page([100, 100], 1, 1 << 2),
            "another order of use": page([100, 100], 2, 1 << 2 | 1, 1, 1 << 2 | 1, 0),
            "no extents": page([], 0),
            "an unknown operation": page([100], 1, 1 << 2 | 3),
            "beyond the chunk": page([100], 1, 2, 50, 51),
            "beyond the table": page([100], 1, 2 << 2),
            "an empty range": page([100], 1, 2, 50, 0),
            "an empty chunk": page([0], 1, 1 << 2),
        }
        for name, data in twins.items():
            with self.subTest(name=name), self.assertRaises(Refused):
                parse_page(data)


class Primitives(unittest.TestCase):
    def test_hchacha20_is_that_of_the_draft(self):
        nonce = bytes.fromhex("000000090000004a0000000031415927")
        expected = "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
        self.assertEqual(hchacha20(bytes(range(32)), nonce).hex(), expected)

    def test_numbers_have_one_encoding(self):
        for value in (0, 1, 127, 128, 300, (1 << 64) - 1):
            cursor = Cursor(varint(value), "number")
            self.assertEqual(cursor.varint(), value)
            cursor.end()
        for bad in (b"", b"\x80", b"\x80\x00", b"\xff\x00", b"\xff" * 10, b"\x80" * 9 + b"\x02"):
            with self.subTest(bad=bad), self.assertRaises(Refused):
                Cursor(bad, "number").varint()


if __name__ == "__main__":
    unittest.main()
