"""Layouts of docs/FORMAT.md that are read without a repository around them: slots, recipe pages, entry rows."""

import collections

from argon2.low_level import Type, hash_secret_raw

from primitives import LABEL, Cursor, commit, derive, open_sealed, require, same, varint, without_checksum

MIB = 1 << 20

Row = collections.namedtuple("Row", "key attributes length form hash extents root")
Slot = collections.namedtuple("Slot", "header kind capability memory passes lanes salt commitment nonce sealed")


def parse_slot(data, repository, what):
    cursor = Cursor(without_checksum(data, 65536, what), what)
    cursor.magic(b"ORKVSLOT")
    kind, capability, memory, passes, lanes = cursor.u8(), cursor.u8(), cursor.u32(), cursor.u32(), cursor.u32()
    is_cheap = 19456 <= memory <= 2097152 and 1 <= passes <= 16 and 1 <= lanes <= 16 and memory * passes <= 8388608
    require(is_cheap if kind == 1 else kind == 2 and memory == passes == lanes == 0, f"{what}: no derivation to try")
    require(1 <= capability <= 3, f"{what} has capability {capability}")
    salt = cursor.take(32)
    require(cursor.take(32) == repository, f"{what} is of another repository")
    cursor.u64()
    cursor.text(64)
    header = cursor.data[: cursor.at]
    slot = Slot(header, kind, capability, memory, passes, lanes, salt, cursor.take(32), cursor.take(24),
                cursor.bytes(65536))
    cursor.end()
    return slot


def open_slot(slot, secret, what):
    """Opens a slot with a passphrase or raw key (5.5)."""
    if slot.kind == 1:
        key = hash_secret_raw(secret, slot.salt, slot.passes, slot.memory, slot.lanes, 32, Type.ID, 0x13)
    else:
        key = derive(LABEL + "raw slot key", secret + slot.salt)
    require(same(commit(key, slot.header), slot.commitment), f"{what}: wrong passphrase or key, or a changed slot")
    return open_sealed(key, slot.nonce, slot.header, slot.sealed, what)


def read_page(read, page):
    """Returns the extents of a recipe page (9.2) as (chunk, chunk length, offset, length), its parents' help included.

    `read` returns the bytes of the page that a chunk id names.
    """
    return expand(read, page, 256, {})[1]


def expand(read, page, below, known):
    """Returns depth and extents of a page that must be less deep than `below`; `known` has those expanded so far."""
    if page not in known:
        require(len(known) < 128, "a recipe page is made of too many pages")
        # It counts while those that it is made of are read.
        known[page] = None
        known[page] = expand_stored(read, read(page), below, known)
        held = sum(found[2] for found in known.values() if found)
        require(held <= 1048576, "a recipe page is made of too many extents")
    require(known[page] and known[page][0] < below, "a recipe page is not less deep than its child")
    return known[page]


def expand_stored(read, data, below, known):
    """Returns depth, extents, and how many extents, steps and added chunks that took."""
    require(data[:1] in (b"\0", b"\1"), "a recipe page has another form")
    if data[0] == 0:
        extents = parse_page(data)
        return 0, extents, len(extents)
    cursor = Cursor(data, "recipe edit")
    cursor.u8()
    depth, parents = cursor.u8(), [cursor.take(32) for _ in range(cursor.varint(8))]
    require(1 <= depth <= 32 and depth < below, "a recipe page is not less deep than its child")
    require(len(set(parents)) == len(parents) > 0, "a recipe edit has no parent, or one twice")
    added, steps = read_chunks(cursor), read_steps(cursor)
    cursor.end()
    require(encode_edit(parents, depth, added, steps) == data, "a recipe edit is not canonical")
    older = [expand(read, parent, depth, known) for parent in parents]
    require(depth == 1 + max(found[0] for found in older), "a recipe edit has a wrong depth")
    old = [extent for found in older for extent in found[1]]
    require(len(old) <= 65536, "the parents of a recipe page have too many extents")
    extents = apply_edit(old, added, steps)
    return depth, extents, len(extents) + len(added) + len(steps)


def read_chunks(cursor):
    return [(cursor.take(32), cursor.varint(8388608)) for _ in range(cursor.varint(16384))]


def read_steps(cursor):
    """Returns steps as (kind, numbers ...), copies always with their start."""
    following, steps = 0, []
    for _ in range(cursor.varint(65536)):
        number = cursor.varint()
        kind, value = number & 3, number >> 2
        if kind == 2:
            steps.append((2, value, cursor.varint(), cursor.varint()))
            continue
        start = following if kind == 0 else cursor.varint()
        require(1 <= value <= 65536, "a step of a recipe edit is empty or too long")
        if kind != 3:
            following = start + value
        kind = max(kind, 1)
        before = steps[-1] if steps else (None,)
        require(before[0] != kind or before[1] + before[2] != start, "two steps of a recipe edit should be one")
        steps.append((kind, start, value))
    return steps


def encode_edit(parents, depth, added, steps):
    out = b"".join(chunk + varint(length) for chunk, length in added)
    head = b"\1" + bytes([depth]) + varint(len(parents)) + b"".join(parents)
    out = head + varint(len(added)) + out + varint(len(steps))
    following = 0
    for kind, start, *numbers in steps:
        if kind == 2:
            out += varint(start << 2 | 2) + b"".join(map(varint, numbers))
        elif kind == 1 and start == following:
            out += varint(numbers[0] << 2)
        else:
            out += varint(numbers[0] << 2 | kind) + varint(start)
        if kind == 1:
            following = start + numbers[0]
    return out


def apply_edit(old, added, steps):
    table = list(dict.fromkeys((chunk, length) for chunk, length, _, _ in old))
    table, extents = table + added, []
    require(len({chunk for chunk, _ in table}) == len(table), "a recipe edit adds what is there")
    for kind, start, *numbers in steps:
        end = start + (1 if kind == 2 else numbers[0])
        require(end <= len(old if kind == 1 else table), "a recipe edit leaves its parent")
        if kind == 1:
            extents += old[start:end]
        elif kind == 2:
            require(numbers != [0, table[start][1]], "a recipe edit has the whole as a range")
            extents.append((*table[start], *numbers))
        else:
            extents += [(chunk, length, 0, length) for chunk, length in table[start:end]]
        require(len(extents) <= 65536, "a recipe page is too long")
    chunks = {chunk: length for chunk, length, _, _ in extents}
    require(extents and len(chunks) <= 16384, "a recipe page is empty or has too many chunks")
    require(all(chunks[extent[0]] == extent[1] for extent in extents), "a chunk of a recipe page has two lengths")
    require({chunk for chunk, _ in added} <= set(chunks), "a recipe edit adds what it does not use")
    check_extents(extents)
    return extents


def parse_page(data):
    """Returns the extents of a whole recipe page (9.2)."""
    cursor = Cursor(data, "recipe page")
    require(cursor.u8() == 0, "a recipe page has another form")
    table = read_chunks(cursor)
    following, spans = 0, []
    operations = cursor.varint(65536)
    require(operations >= 1 and len(set(chunk for chunk, _ in table)) == len(table), "a recipe page is malformed")
    for _ in range(operations):
        number = cursor.varint()
        kind, value = number & 3, number >> 2
        require(kind != 3, "a recipe page has an unknown operation")
        if kind == 2:
            spans.append((value, cursor.varint(), cursor.varint()))
            following = value + 1
        else:
            start = cursor.varint() if kind == 1 else following
            require(start + value <= len(table) and len(spans) + value <= 65536, "a recipe page leaves its table")
            spans += [(place, 0, table[place][1]) for place in range(start, start + value)]
            following = start + value
    cursor.end()
    require(len(spans) <= 65536 and all(span[0] < len(table) for span in spans), "a recipe page leaves its table")
    require(encode_page(table, spans) == data, "a recipe page is not canonical")
    extents = [(*table[place], offset, length) for place, offset, length in spans]
    check_extents(extents)
    return extents


def encode_page(table, spans):
    """Returns the one encoding of a recipe page whose table is in order of first use."""
    operations, count, following, at = b"", 0, 0, 0
    while at < len(spans):
        start, offset, length = spans[at]
        run = 0
        while at + run < len(spans) and spans[at + run] == (start + run, 0, table[min(start + run, len(table) - 1)][1]):
            run += 1
        if run:
            operations += varint(run << 2) if start == following else varint(run << 2 | 1) + varint(start)
            following = start + run
        else:
            operations += varint(start << 2 | 2) + varint(offset) + varint(length)
            following = start + 1
        at, count = at + max(run, 1), count + 1
    used = list(dict.fromkeys(start for start, _, _ in spans))
    require(used == list(range(len(table))), "the table of a recipe page is not in order of use")
    rows = b"".join(chunk + varint(length) for chunk, length in table)
    return b"\0" + varint(len(table)) + rows + varint(count) + operations


def check_extents(extents):
    for chunk_length, offset, length in (extent[1:] for extent in extents):
        require(length >= 1 and offset + length <= chunk_length <= 8388608, "an extent leaves its chunk")
    for left, right in zip(extents, extents[1:]):
        require((left[0], left[2] + left[3]) != (right[0], right[2]), "two extents should be one")


def parse_rows(pieces):
    """Yields the rows of an entry table that comes in pieces (10)."""
    buffer, before = b"", None
    for data in pieces:
        buffer += data
        while (size := row_size(buffer)) is not None and sum(size) <= len(buffer):
            row = parse_row(buffer[size[0] : sum(size)])
            require(before is None or before < row.key, "an entry table is out of order")
            buffer, before = buffer[sum(size) :], row.key
            yield row
    require(not buffer, "an entry table is cut off")


def row_size(buffer):
    """Returns the bytes of the length in front of a row and that length, or None where there is too little yet."""
    if not buffer or (len(buffer) < 3 and all(byte >= 0x80 for byte in buffer)):
        return None
    cursor = Cursor(buffer, "entry table")
    size = cursor.varint(MIB)
    return cursor.at, size


def read_attributes(cursor):
    attributes, before = {}, None
    for _ in range(cursor.varint(256)):
        name = cursor.text(1024)
        # The order of code points is that of UTF-8 bytes.
        require(before is None or before < name, f"{cursor.what} has attributes out of order")
        before, attributes[name] = name, cursor.bytes(262144)
    return attributes


def parse_row(data):
    cursor = Cursor(data, "entry row")
    key, attributes, length, form = cursor.bytes(8192), read_attributes(cursor), cursor.varint(1 << 56), cursor.u8()
    require(form <= 2 and (form or not length), "an entry row is malformed")
    expected = cursor.take(32) if form else None
    extents = []
    if form == 1:
        count = cursor.varint(16)
        extents = [(cursor.take(32), cursor.varint(), cursor.varint(), cursor.varint()) for _ in range(count)]
        check_extents(extents)
        require(sum(extent[3] for extent in extents) == length, "an entry row has extents of another length")
    root = cursor.take(32) if form == 2 else None
    cursor.end()
    return Row(key, attributes, length, form, expected, extents, root)
