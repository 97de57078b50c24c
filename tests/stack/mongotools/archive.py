"""The archive format of mongodump, as docs and real archives show it: written and read here for the stand-ins.

    archive = magic, header, { collection metadata }, TERMINATOR, { block }
    block   = namespace header, { document }, TERMINATOR

All but the magic and the terminators are BSON documents. A block whose header says EOF closes its namespace and carries
the CRC-64/XZ of all of that namespace's documents.
"""

import ctypes
import struct

import bson
from bson.int64 import Int64

MAGIC = b"\x6d\xe2\x99\x81"
TERMINATOR = b"\xff\xff\xff\xff"
DOCUMENT_BYTES = 16 * 1024 * 1024
FORMAT_VERSION = "0.1"

_lzma = ctypes.CDLL("liblzma.so.5")
_lzma.lzma_crc64.restype = ctypes.c_uint64
_lzma.lzma_crc64.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)


def crc64(content, crc=0):
    """Returns the CRC-64/XZ of what `crc` stands for, followed by `content`: the .xz format uses the same one."""
    return _lzma.lzma_crc64(content, len(content), crc)


assert crc64(b"123456789") == 0x995DC9BBDF1939FA


class ArchiveError(Exception):
    """What mongorestore says of a stream that is no archive, or no whole one."""


class CutShort(ArchiveError):
    """The stream ends within something."""


def header(concurrent, server_version, tool_version):
    return bson.encode({"concurrent_collections": concurrent, "version": FORMAT_VERSION,
                        "server_version": server_version, "tool_version": tool_version})


def collection_metadata(database, collection, metadata, kind):
    return bson.encode({"db": database, "collection": collection, "metadata": metadata, "size": 0, "type": kind})


def namespace_header(database, collection, crc=None):
    """Returns the header of a block of documents, or of the one that closes the namespace where a CRC is given."""
    signed = 0 if crc is None else crc - (1 << 64) if crc >> 63 else crc
    return bson.encode({"db": database, "collection": collection, "EOF": crc is not None, "CRC": Int64(signed)})


class Reader:
    """Reads an archive as a stream: documents are framed, not decoded."""

    def __init__(self, file):
        self.file = file
        self.header = None
        self.entries = []

    def read_prelude(self):
        magic = self.file.read(4)
        if len(magic) < 4:
            raise ArchiveError("I/O failure reading beginning of archive: " + ("unexpected EOF" if magic else "EOF"))
        if magic != MAGIC:
            raise ArchiveError("stream or file does not appear to be a mongodump archive")
        self.header = self.decoded(self.item())
        while (item := self.item()) is not None:
            self.entries.append(self.decoded(item))

    def blocks(self):
        """Yields (namespace header, documents); the documents of a block must be used up before the next block."""
        while True:
            first = self.file.read(4)
            if not first:
                return
            item = self.item(first)
            if item is None:
                raise ArchiveError("corruption found in archive; consecutive terminators / headerless blocks are not allowed")
            yield self.decoded(item), self.documents()

    def documents(self):
        while (item := self.item()) is not None:
            yield item

    def item(self, first=None):
        """Returns the next document's bytes, or None at a terminator."""
        first = self.file.read(4) if first is None else first
        if len(first) < 4:
            raise CutShort("archive io error")
        if first == TERMINATOR:
            return None
        (length,) = struct.unpack("<i", first)
        if not 5 <= length <= DOCUMENT_BYTES:
            raise ArchiveError(f"corruption found in archive; {length} is neither a valid bson length nor a archive terminator")
        rest = self.file.read(length - 4)
        if len(rest) < length - 4:
            raise CutShort("archive io error")
        if rest[-1] != 0:
            raise ArchiveError("corruption found in archive; document does not end with a zero byte")
        return first + rest

    def decoded(self, item):
        if item is None:
            raise ArchiveError("corruption found in archive; a terminator where a document was expected")
        try:
            return bson.decode(item)
        except bson.errors.InvalidBSON as error:
            raise ArchiveError(f"corruption found in archive; {error}") from error
