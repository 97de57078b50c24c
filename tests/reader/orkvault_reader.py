"""A second reader of orkvault repositories, written from docs/FORMAT.md alone; the numbers are its sections.

It restores, and shares no line with the program: where the two disagree, one of them or the document is wrong.
"""

import argparse
import collections
import json
import os
import re
import struct
import sys
import urllib.parse
from pathlib import Path

from blake3 import blake3

from layouts import MIB, open_slot, parse_rows, parse_slot, read_attributes, read_page
from primitives import (
    LABEL, Cursor, Refused, XWing, canonical_json, commit, decode, derive, fields, hpke_open, keyed, open_sealed,
    require, same, without_checksum,
)

DATA, SECRETS = 0, 1
CONTENT_PACK, META_PACK, BUNDLE = 0, 1, 5
NAMESPACES = ("data", "secrets")
ID = re.compile(r"[0-9a-f]{64}")

Place = collections.namedtuple("Place", "pack kind header_length offset stored codec entry nonce chunks")


class Keys:
    """What is known of one namespace."""

    def __init__(self, namespace, root, seeds):
        self.root, self.pairs = root, [XWing(seed) for seed in seeds]
        self.name = NAMESPACES[namespace]

    def get(self, purpose):
        return derive(f"{LABEL}{self.name} {purpose}", self.root)


class Repository:
    def __init__(self, path, passphrase=None, secrets_passphrase=None, writer_line=None, use_index=True,
                 secrets_path=None):
        self.path, self.keys, self.use_index = Path(path), {}, use_index
        self.secrets_path = self.path if secrets_path is None else Path(secrets_path)
        config = self.read_config()
        slots = self.read_slots()
        if secrets_path is not None:
            self.check_secrets_store(config)
            slots += self.read_slots(self.secrets_path)
        if writer_line is not None:
            prefix, repository, raw = writer_line.decode().strip().split(":")
            require(prefix == "orkvault-writer-1" and ID.fullmatch(repository) and ID.fullmatch(raw), "no writer key")
            require(bytes.fromhex(repository) == self.id, "the writer key is of another repository")
            self.open_writer(slots, bytes.fromhex(raw))
        for namespace, secret in ((DATA, passphrase), (SECRETS, secrets_passphrase)):
            if secret is not None:
                self.open_reader(slots, namespace, re.sub(rb"\r?\n\Z", b"", secret))
        require(self.keys, "no key was given")
        for namespace, keys in self.keys.items():
            require(same(keyed(keys.get("config-mac"), self.config_body), self.macs[namespace]), "config is forged")
        self.index, self.packs, self.segments = None, {}, collections.OrderedDict()

    def place(self, name):
        """Returns the store that an object lies in (1)."""
        return self.secrets_path if name.startswith("secrets/") else self.path

    def read(self, name, most=64 * MIB, store=None):
        path = (store or self.place(name)) / name
        try:
            require(path.stat().st_size <= most, f"{name} is too long")
            return path.read_bytes()
        except OSError as error:
            raise Refused(f"{name}: {error.strerror}") from error

    def names(self, folder, store=None):
        folder_path = (store or self.place(folder)) / folder
        names = sorted(os.listdir(folder_path)) if folder_path.is_dir() else []
        return [f"{folder}/{name}" for name in names if ID.fullmatch(name)]

    def read_config(self):
        """5.7; the MACs are checked when there are keys."""
        body = without_checksum(self.read("config", 65536), 65536, "config")
        self.config_body, self.macs = body[:-64], (body[-64:-32], body[-32:])
        cursor = Cursor(self.config_body, "config")
        cursor.magic(b"ORKVCONF")
        self.part = cursor.u64()
        require(self.part in (0, 1, 2), "config has required features that are not known")
        cursor.u64()
        self.id = cursor.take(32)
        cursor.u64()
        self.publics = []
        for _ in NAMESPACES:
            count = cursor.varint(16)
            require(count >= 1, "config has no epoch")
            publics = []
            for epoch in range(1, count + 1):
                require(cursor.u32() == epoch, "config has epochs out of order")
                publics.append(cursor.bytes(1216))
                require(len(publics[-1]) == 1216, "config has a public key of another length")
            self.publics.append(publics)
        for kind in range(4):
            require(cursor.u8() == kind, "config has stream kinds out of order")
            least, average, most, whole_below = (cursor.u32() for _ in range(4))
            require(64 <= least <= MIB and 256 <= average <= 4 * MIB and 1024 <= most <= 8 * MIB >= whole_below
                    and least % 2 == most % 2 == average & (average - 1) == 0 and least < average < most,
                    "config has strange chunk sizes")
        cursor.end()
        return body

    def check_secrets_store(self, config):
        """The store of the secrets has the same config but for the required features and the MACs (1)."""
        require(self.part == 1, "the repository has its secrets itself, or is nothing but secrets")
        other = without_checksum(self.read("config", 65536, self.secrets_path), 65536, "config of the secrets")
        require(other[10:18] == struct.pack("<Q", 2), "the store of the secrets holds something else")
        require(other[:10] + config[10:18] + other[18:-64] == config[:-64], "the store of the secrets is another's")

    def read_slots(self, store=None):
        """Returns the slots that are whole: a damaged one matters only to those who have no other."""
        slots, names = [], self.names("keys", store)
        require(len(names) <= 64, "too many key slots")
        for name in names:
            try:
                slots.append(parse_slot(self.read(name, 65536, store), self.id, name))
            except Refused as error:
                print(f"orkvault_reader: {error}", file=sys.stderr)
        return slots

    def open_any(self, slots, capability, secret):
        """Returns the keys of the first slot of a capability that opens."""
        refused = Refused(f"no whole key slot of capability {capability}")
        for slot in (slot for slot in slots if slot.capability == capability):
            try:
                return Cursor(open_slot(slot, secret, "key slot"), "keys of a slot")
            except Refused as error:
                refused = error
        raise refused

    def count(self, cursor):
        count = cursor.u64()
        require(1 <= count <= 16, "a slot has a strange count of keys")
        return range(count)

    def open_reader(self, slots, namespace, passphrase):
        cursor = self.open_any(slots, 2 + namespace, passphrase)
        keys = Keys(namespace, cursor.take(32), [cursor.take(32) for _ in self.count(cursor)])
        cursor.end()
        require([pair.public for pair in keys.pairs] == self.publics[namespace], "config has other public keys")
        self.keys[namespace] = keys

    def open_writer(self, slots, raw):
        cursor = self.open_any(slots, 1, raw)
        cursor.take(32)
        for namespace in (DATA, SECRETS):
            self.keys[namespace] = Keys(namespace, cursor.take(32), [])
            publics = [cursor.take(1216) for _ in self.count(cursor)]
            require(publics == self.publics[namespace], "config has other public keys")
        cursor.end()

    def key(self, namespace, purpose):
        require(namespace in self.keys, f"no key of the namespace {NAMESPACES[namespace]}")
        return self.keys[namespace].get(purpose)

    def data_key(self, cursor, namespace, purpose):
        """Reads and opens a key entry (5.4). Returns (data key or None where the seed is not known, commitment)."""
        kind, epoch = cursor.u8(), cursor.u32()
        require(kind == (2 if purpose == META_PACK else 1), f"{cursor.what} has a key entry of another kind")
        outer = cursor.take(24 if kind == 2 else 1120)
        sealed, commitment = cursor.take(48), cursor.take(32)
        context = (b"orkvault 2026-11 v1 data key" + self.id + bytes([namespace, purpose]) + struct.pack("<I", epoch))
        if kind == 2:
            key = open_sealed(self.key(namespace, "meta"), outer, context + commitment, sealed, cursor.what)
        else:
            pairs = self.keys[namespace].pairs
            if not pairs:
                return None, commitment
            require(1 <= epoch <= len(pairs), f"{cursor.what} has an unknown epoch")
            psk = self.key(namespace, "writer-psk")
            key = hpke_open(pairs[epoch - 1], outer, psk, context, commitment, sealed)
        require(same(commit(key, context), commitment), f"{cursor.what} has another data key")
        return key, commitment

    def open_object(self, name, kind, namespace, most, object_id=bytes(32)):
        """Opens a sealed object (6). Returns its plain bytes."""
        data = self.read(name, 2 * most + 4096)
        if kind in (1, BUNDLE):
            require(blake3(data).hexdigest() == name[-64:], f"{name} is damaged")
        cursor = Cursor(without_checksum(data, 2 * most + 4096, name), name)
        cursor.magic(b"ORKVAULT")
        require((cursor.u8(), cursor.u8()) == (kind, namespace), f"{name} is of another kind")
        cursor.u32()
        nonce, commitment, sealed_length = cursor.take(24), cursor.take(32), cursor.u64()
        require(sealed_length <= 2 * most, f"{name} is too long")
        header = cursor.data[:80]
        if kind == BUNDLE:
            key, _ = self.data_key(cursor, namespace, BUNDLE)
            require(key is not None, f"{name}: these keys open no bundle")
        else:
            key = self.key(namespace, "index" if kind == 1 else "meta")
        sealed = cursor.take(sealed_length)
        cursor.end()
        bound = self.id + object_id
        context = header[:40] + bytes(32) + header[72:] + bound
        require(same(commit(key, context), commitment), f"{name} does not belong here")
        return open_sealed(key, nonce, header + bound, sealed, name)

    def open_payload(self, name, kind, namespace, most, object_id=bytes(32)):
        cursor = Cursor(self.open_object(name, kind, namespace, most, object_id), name)
        codec, raw_length, body_length = cursor.u8(), cursor.u64(), cursor.u64()
        require(raw_length <= most, f"{name} is too long")
        require(kind != 1 or codec == 0, f"{name} is an index part with a codec")
        body = cursor.take(body_length)
        cursor.zeros()
        return decode(codec, body, raw_length, name)

    # --- index and packs (7, 8) ---

    def read_directory(self, cursor, pack, kind, header_length, pack_length):
        """Returns the segments of a directory as places."""
        places, offset = [], header_length
        for _ in range(cursor.varint(16384)):
            stored, codec, entry, nonce = cursor.varint(8388672), cursor.u8(), cursor.u8(), cursor.take(24)
            chunks = []
            require(codec in (0, 1), f"{cursor.what} has codec {codec}")
            for _ in range(cursor.varint(65536)):
                chunks.append((cursor.take(32), cursor.varint(8388608)))
                require(chunks[-1][1] >= 1, f"{cursor.what} has an empty chunk")
            require(chunks and sum(length for _, length in chunks) <= 8388608, f"{cursor.what} has a strange segment")
            places.append(Place(pack, kind, header_length, offset, stored, codec, entry, nonce, chunks))
            offset += stored
        require(offset <= pack_length, f"{cursor.what} has segments behind the end of a pack")
        return places

    def read_index_part(self, name):
        cursor, before = Cursor(self.open_payload(name, 1, DATA, 16 * MIB), name), b""
        for _ in range(cursor.varint(65536)):
            pack, kind = cursor.take(32), cursor.u8()
            pack_length, header_length = cursor.varint(64 * MIB), cursor.varint()
            require(before < pack and kind in (0, 1) and header_length <= pack_length, f"{name} is malformed")
            before = pack
            yield from self.read_directory(cursor, pack, kind, header_length, pack_length)
        cursor.end()

    def read_pack(self, pack):
        """Returns a whole pack, its kind and key entries as (data key, commitment); its id was compared."""
        if pack not in self.packs:
            name = f"data/packs/{pack.hex()[:2]}/{pack.hex()}"
            data = self.read(name)
            require(blake3(data).digest() == pack, f"{name} is damaged")
            cursor = Cursor(data, name)
            cursor.magic(b"ORKVPACK")
            kind, namespace, count = cursor.u8(), cursor.u8(), cursor.varint(16)
            require(kind in (0, 1) and namespace == DATA and count >= 1, f"{name} has a strange header")
            entries = [self.data_key(cursor, DATA, kind) for _ in range(count)]
            if len(self.packs) >= 4:
                self.packs.pop(next(iter(self.packs)))
            self.packs[pack] = (data, kind, entries, cursor.at)
        return self.packs[pack]

    def scan_pack(self, pack):
        """Reads the directory at the end of a pack: for those who have no index."""
        data, kind, _, header_length = self.read_pack(pack)
        length = int.from_bytes(data[-4:], "little")
        require(72 <= length <= 16 * MIB and length + 4 <= len(data) - header_length, "a pack has a strange directory")
        sealed = data[-4 - length : -4]
        context = b"orkvault v1 directory" + self.id + blake3(data[:header_length]).digest()
        key = self.key(DATA, "index")
        require(same(commit(key, context), sealed[24:56]), "the directory of a pack does not belong here")
        outer = Cursor(open_sealed(key, sealed[:24], context, sealed[56:], "directory"), "the directory of a pack")
        cursor = Cursor(outer.bytes(16 * MIB), outer.what)
        outer.zeros()
        places = self.read_directory(cursor, pack, kind, header_length, len(data) - 4 - length)
        cursor.end()
        return places

    def load_index(self):
        if self.index is None:
            self.index = collections.defaultdict(list)
            if self.use_index:
                places = [place for name in self.names("data/index") for place in self.read_index_part(name)]
            else:
                folders = [f"data/packs/{number:02x}" for number in range(256)]
                names = [name for folder in folders for name in self.names(folder)]
                places = [place for name in names for place in self.scan_pack(bytes.fromhex(name[-64:]))]
            for place in places:
                for chunk, _ in place.chunks:
                    self.index[place.kind, chunk].append(place)
        return self.index

    def read_segment(self, place):
        """Returns the chunks of a segment; the id of each was compared."""
        where = (place.pack, place.offset)
        if where not in self.segments:
            what = f"pack {place.pack.hex()}, segment at {place.offset}"
            data, kind, entries, header_length = self.read_pack(place.pack)
            require((kind, header_length) == (place.kind, place.header_length), f"{what}: index and header differ")
            require(place.entry < len(entries), f"{what} has no key entry")
            key, commitment = entries[place.entry]
            require(key is not None, f"{what}: these keys open no content")
            length = sum(length for _, length in place.chunks)
            aad = (b"orkvault v1 segment" + self.id + bytes([DATA, kind]) + commitment + bytes([place.codec])
                   + struct.pack("<Q", length))
            sealed = data[place.offset : place.offset + place.stored]
            plain = Cursor(decode(place.codec, open_sealed(key, place.nonce, aad, sealed, what), length, what), what)
            id_key = self.key(DATA, "meta-chunk-id" if kind == META_PACK else "chunk-id")
            chunks = {chunk: plain.take(length) for chunk, length in place.chunks}
            require(all(keyed(id_key, data) == chunk for chunk, data in chunks.items()), f"{what} has other chunks")
            self.segments[where] = chunks
            if len(self.segments) > 16:
                self.segments.popitem(last=False)
        self.segments.move_to_end(where)
        return self.segments[where]

    def chunk(self, kind, chunk):
        """Returns a chunk out of whatever pack has it whole (8)."""
        refused = Refused(f"chunk {chunk.hex()} is in no pack")
        for place in self.load_index()[kind, chunk]:
            try:
                return self.read_segment(place)[chunk]
            except Refused as error:
                refused = error
        raise refused

    # --- recipes, streams, entry tables (9, 10) ---

    def extents(self, root, length):
        """Yields the extents of a recipe (9.1). Returns the BLAKE3 that its root states."""
        cursor = Cursor(self.chunk(META_PACK, root), f"recipe {root.hex()}")
        require(cursor.u8() == 0, "a recipe has another form")
        stated = cursor.take(32)
        pages = [(cursor.take(32), cursor.varint()) for _ in range(cursor.varint(131072))]
        cursor.end()
        require(sum(size for _, size in pages) == length <= 1 << 56, "a recipe has another length than its stream")
        for page, size in pages:
            extents = read_page(lambda chunk: self.chunk(META_PACK, chunk), page)
            require(sum(extent[3] for extent in extents) == size >= 1, "a recipe page has another length")
            yield from extents
        return stated

    def content(self, kind, extents, length, expected):
        """Yields the bytes of a stream; after the last its length and BLAKE3 were compared (9.3)."""
        hasher, total, extents = blake3(), 0, iter(extents)
        for chunk, chunk_length, offset, size in extents:
            data = self.chunk(kind, chunk)
            require(len(data) == chunk_length, "a chunk has another length than its recipe says")
            hasher.update(data[offset : offset + size])
            total += size
            yield data[offset : offset + size]
        require((total, hasher.digest()) == (length, expected), "a stream is not what was captured")

    def recipe_content(self, kind, root, length, expected):
        def checked():
            stated = yield from self.extents(root, length)
            require(stated == expected, "a recipe is of another stream")
        return self.content(kind, checked(), length, expected)

    def stream(self, record, kind=CONTENT_PACK):
        """Yields the bytes of a stream record of a manifest."""
        recipe, expected = bytes.fromhex(record["recipe"]), bytes.fromhex(record["blake3"])
        return self.recipe_content(kind, recipe, record["length"], expected)

    def rows(self, table):
        """Yields the rows of an entry table."""
        count, total = 0, 0
        for row in parse_rows(self.stream(table["table"], META_PACK)):
            count, total = count + 1, total + row.length
            yield row
        require((count, total) == (table["rows"], table["contentBytes"]), "an entry table has other rows than stated")

    def entry_content(self, row):
        if row.form == 0:
            return iter(())
        if row.form == 1:
            return self.content(CONTENT_PACK, row.extents, row.length, row.hash)
        return self.recipe_content(CONTENT_PACK, row.root, row.length, row.hash)

    def catalogue(self, table):
        lines = b"".join(self.stream(table["table"], META_PACK))
        require(not lines or lines.endswith(b"\n"), "a catalogue is cut off")
        rows = [canonical_json(line, "catalogue") for line in lines.split(b"\n")[:-1]]
        out = [fields(row, "bytes:number kind:text name:text records:number") for row in rows]
        require(len(out) == table["rows"], "a catalogue has another count of rows")
        return out

    # --- snapshots and bundles (11, 12) ---

    def check_origin(self, details):
        if "copiedFrom" in details:
            fields(details["copiedFrom"], "repository:id snapshot:id")

    def manifest(self, name):
        """Opens a snapshot by the name of its object. Fields that are not known are refused."""
        namespace = NAMESPACES.index(name.split("/")[0])
        body = self.open_payload(name, 2, namespace, 4 * MIB, bytes.fromhex(name[-64:]))
        manifest = canonical_json(body, name)
        if namespace == SECRETS:
            fields(manifest, "schema:text createdAt:text environment:text host:text bundle:id files:number writer:id",
                   "copiedFrom:object")
            self.check_origin(manifest)
            require(manifest["schema"] == "orkvault-secrets/v1", f"{name} has another schema")
            return manifest
        fields(manifest, "schema:text createdAt:text environment:text host:text components:texts orkvault:object")
        details = fields(
            manifest["orkvault"], "version:number tool:text status:text finishedAt:text components:object "
            "writer:object stats:object", "secrets:object tags:texts copiedFrom:object")
        self.check_origin(details)
        require((manifest["schema"], details["version"]) == ("orkestra-backup/v1", 1), f"{name} is of another version")
        require(details["status"] in ("complete", "incomplete"), f"{name} has a strange status")
        fields(details["stats"], "readBytes:number newBytes:number storedBytes:number newChunks:number "
               "knownChunks:number")
        writer = fields(details["writer"], "id:id sequence:number", "previous:objects")
        previous = [fields(record, "snapshot:id blake3:id")["snapshot"] for record in writer.get("previous", [])]
        require(previous == sorted(set(previous)), f"{name} follows snapshots out of order")
        if "secrets" in details:
            fields(details["secrets"], "snapshot:id", "location:text")
        for record in details["components"].values():
            fields(record, "status:text startedAt:text finishedAt:text", "reason:text consistency:text facts:object "
                   "streams:object entries:object catalogue:object warnings:texts")
            require(record["status"] in ("complete", "failed", "skipped"), f"{name} has a strange status")
            facts = record.get("facts", {}).values()
            require(all(isinstance(fact, str) for fact in facts), f"{name} has strange facts")
            tables = [record[table] for table in ("entries", "catalogue") if table in record]
            tables = [fields(table, "rows:number contentBytes:number table:object")["table"] for table in tables]
            for stream in [*record.get("streams", {}).values(), *tables]:
                fields(stream, "length:number blake3:id recipe:id")
        return manifest

    def snapshot(self, snapshot, namespace=DATA):
        require(ID.fullmatch(snapshot), f"{snapshot} is no id")
        return self.manifest(f"{NAMESPACES[namespace]}/snapshots/{snapshot}")

    def snapshots(self, namespace=DATA):
        """Returns the manifests of a namespace by id, oldest first."""
        manifests = [(name[-64:], self.manifest(name)) for name in self.names(f"{NAMESPACES[namespace]}/snapshots")]
        return dict(sorted(manifests, key=lambda pair: (pair[1]["createdAt"], pair[0])))

    def secrets(self, snapshot):
        """Opens the bundle of a secrets snapshot. Returns (key, attributes, content or None) of every file."""
        manifest = self.snapshot(snapshot, SECRETS)
        name = f"secrets/bundles/{manifest['bundle']}"
        outer = Cursor(self.open_object(name, BUNDLE, SECRETS, 8 * MIB, bytes.fromhex(snapshot)), name)
        cursor = Cursor(outer.take(outer.u64()), name)
        require(len(outer.data) == -(-outer.at // 65536) * 65536, f"{name} has another padding")
        outer.zeros()
        files = []
        for _ in range(cursor.varint(1024)):
            key, attributes, has_content = cursor.bytes(8192), read_attributes(cursor), cursor.u8()
            content = cursor.bytes(8 * MIB)
            require(has_content == 1 or (has_content, content) == (0, b""), f"{name} is malformed")
            require(not files or files[-1][0] < key, f"{name} is out of order")
            files.append((key, attributes, content if has_content else None))
        cursor.end()
        require(len(files) == manifest["files"], f"{name} has another count of files")
        return files


def write_file(folder, name, pieces):
    """Writes a file whose name is the percent-encoded key; it has that name only when every byte was checked."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = urllib.parse.quote(name, safe="")
    path = folder / (name.replace(".", "%2E") if name in ("", ".", "..") else name)
    part = folder / ".orkvault-part"
    with open(part, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.writelines(pieces)
    part.rename(path)


def restore(repository, wanted, outdir):
    if wanted == "latest":
        manifests = repository.snapshots()
        wanted = [snapshot for snapshot, found in manifests.items() if found["orkvault"]["status"] == "complete"][-1]
    details = repository.snapshot(wanted)["orkvault"]
    for component, record in details["components"].items():
        folder = Path(outdir) / urllib.parse.quote(component, safe="")
        for name, stream in record.get("streams", {}).items():
            write_file(folder / "streams", name, repository.stream(stream))
        if "entries" in record:
            listing = []
            for row in repository.rows(record["entries"]):
                write_file(folder / "entries", row.key, repository.entry_content(row))
                listing.append(shown(row.key, row.attributes))
            write_file(folder, "entries.json", [json.dumps(listing, indent=1).encode()])
        if "catalogue" in record:
            write_file(folder, "catalogue.json", [json.dumps(repository.catalogue(record["catalogue"])).encode()])
    if "secrets" in details and SECRETS in repository.keys:
        folder, files = Path(outdir) / "secrets", repository.secrets(details["secrets"]["snapshot"])
        for key, _, content in files:
            if content is not None:
                write_file(folder / "entries", key, [content])
        listing = [shown(key, attributes) for key, attributes, _ in files]
        write_file(folder, "entries.json", [json.dumps(listing, indent=1).encode()])


def shown(key, attributes):
    texts = {name: value.decode(errors="backslashreplace") for name, value in attributes.items()}
    return {"key": key.decode(errors="backslashreplace"), "attributes": texts}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository")
    parser.add_argument("--secrets-repository", type=Path, help="where the secrets are, if in a store of their own")
    for name in ("passphrase", "secrets-passphrase", "writer-key"):
        parser.add_argument(f"--{name}-file", type=Path)
    parser.add_argument("--scan-packs", action="store_true", help="read the directories of the packs, not the index")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    restoring = commands.add_parser("restore")
    restoring.add_argument("snapshot")
    restoring.add_argument("outdir")
    options = parser.parse_args(arguments)
    files = (options.passphrase_file, options.secrets_passphrase_file, options.writer_key_file)
    try:
        secrets = [file.read_bytes() if file else None for file in files]
        repository = Repository(options.repository, *secrets, use_index=not options.scan_packs,
                                secrets_path=options.secrets_repository)
        if options.command == "restore":
            restore(repository, options.snapshot, options.outdir)
        else:
            for snapshot, manifest in repository.snapshots().items():
                details = manifest["orkvault"]
                print(snapshot, manifest["createdAt"], details["status"], *details["components"])
    except (Refused, OSError, LookupError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
