"""Primitives and encodings of docs/FORMAT.md, sections 4 to 6: for orkvault_reader.py."""

import hashlib
import hmac
import json
import re
import struct

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

LABEL = "orkvault 2026-11 v1 "


class Refused(Exception):
    """Stored bytes are damaged, forged or not of version 1; or a key does not open them."""


def require(condition, what):
    if not condition:
        raise Refused(what)


def derive(context, key):
    return blake3(key, derive_key_context=context).digest()


def keyed(key, data):
    return blake3(data, key=key).digest()


def same(left, right):
    return hmac.compare_digest(left, right)


def hchacha20(key, nonce16):
    words = list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key) + struct.unpack("<4I", nonce16))

    def quarter(a, b, c, d):
        for left, right, into, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            words[left] = (words[left] + words[right]) & 0xFFFFFFFF
            mixed = words[into] ^ words[left]
            words[into] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            quarter(diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
    return struct.pack("<8I", *words[:4], *words[12:])


def aead_open(key, nonce, aad, sealed, what):
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, aad)
    except (InvalidTag, ValueError) as error:
        raise Refused(f"{what}: the cipher refuses it") from error


def open_sealed(key, nonce, aad, sealed, what):
    subkey = hchacha20(derive(LABEL + "seal", key), nonce[:16])
    return aead_open(subkey, bytes(4) + nonce[16:], aad, sealed, what)


def commit(key, context):
    return keyed(derive(LABEL + "commit", key), context)


class XWing:
    """The key pair of a seed (5.3)."""

    def __init__(self, seed):
        expanded = hashlib.shake_256(seed).digest(96)
        self.kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        self.x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        self.x25519_public = self.x25519.public_key().public_bytes_raw()
        self.public = self.kem.public_key().public_bytes_raw() + self.x25519_public

    def decapsulate(self, encapsulation):
        ephemeral = encapsulation[1088:]
        try:
            shared = self.kem.decapsulate(encapsulation[:1088])
            shared += self.x25519.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        except ValueError as error:
            raise Refused("a data key is encapsulated to no key") from error
        label = bytes.fromhex("5c2e2f2f5e5c")
        return hashlib.sha3_256(shared + ephemeral + self.x25519_public + label).digest()


def hpke_open(pair, encapsulation, psk, info, aad, sealed):
    suite = b"HPKE" + bytes.fromhex("647a00010003")

    def extract(salt, label, ikm):
        return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")

    def expand(prk, label, info, length):
        message = struct.pack(">H", length) + b"HPKE-v1" + suite + label + info
        return hmac.digest(prk, message + b"\x01", "sha256")[:length]

    context = b"\x01" + extract(b"", b"psk_id_hash", b"orkvault v1 writer-psk") + extract(b"", b"info_hash", info)
    secret = extract(pair.decapsulate(encapsulation), b"secret", psk)
    key, nonce = expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)
    return aead_open(key, nonce, aad, sealed, "data key")


class Cursor:
    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def take(self, length):
        require(length <= len(self.data) - self.at, f"{self.what} is cut off")
        self.at += length
        return self.data[self.at - length : self.at]

    def u8(self):
        return self.take(1)[0]

    def u32(self):
        return int.from_bytes(self.take(4), "little")

    def u64(self):
        return int.from_bytes(self.take(8), "little")

    def varint(self, most=(1 << 64) - 1):
        value = 0
        for place in range(10):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                require(byte or not place, f"{self.what} has an overlong number")
                require(value <= most, f"{self.what} has a number above its limit")
                return value
        raise Refused(f"{self.what} has a number that does not end")

    def bytes(self, most):
        return self.take(self.varint(most))

    def text(self, most):
        try:
            return self.bytes(most).decode()
        except UnicodeDecodeError as error:
            raise Refused(f"{self.what} has a text that is none") from error

    def zeros(self):
        require(not any(self.data[self.at :]), f"{self.what} has padding that is not zero")

    def magic(self, magic):
        require(self.take(8) == magic, f"{self.what} is no {magic.decode()}")
        require(int.from_bytes(self.take(2), "little") == 1, f"{self.what} is of another version")

    def end(self):
        require(self.at == len(self.data), f"{self.what} has bytes left over")


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def without_checksum(data, most, what):
    require(32 <= len(data) <= most, f"{what} has {len(data)} bytes")
    require(same(blake3(data[:-32]).digest(), data[-32:]), f"{what} is damaged")
    return data[:-32]


def decode(codec, data, length, what):
    """Decodes stored or zstd bytes to exactly `length` (6)."""
    require(codec in (0, 1), f"{what} has codec {codec}")
    if codec == 1:
        require(data[:4] == b"\x28\xb5\x2f\xfd", f"{what} is no zstd frame")
        try:
            require(zstandard.frame_content_size(data) in (-1, length), f"{what} has another length")
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Refused(f"{what}: {error}") from error
    require(len(data) == length, f"{what} has another length")
    return data


def no_floats(text):
    raise ValueError(f"{text} is no integer")


def canonical_json(data, what):
    """Parses JSON that is as this parser's language would write it, sorted and without white space (11)."""
    try:
        value = json.loads(data.decode(), parse_float=no_floats, parse_constant=no_floats)
        again = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"{what}: {error}") from error
    require(again == data, f"{what} is not canonical")
    return value


def is_of_kind(value, kind):
    match kind:
        case "number":
            return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64
        case "id":
            return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
        case "text":
            return isinstance(value, str)
        case "texts":
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case "object":
            return isinstance(value, dict)
        case "objects":
            return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def fields(value, needed, optional=""):
    """Returns an object that has all of the needed fields and none but those and the optional ones (11).

    Both are lists of `name:kind`; an optional one is not there where it would be empty.
    """
    require(isinstance(value, dict), "JSON has something else where an object belongs")
    needed, optional = (dict(field.split(":") for field in given.split()) for given in (needed, optional))
    require(needed.keys() <= value.keys() <= needed.keys() | optional.keys(), f"JSON has the fields {sorted(value)}")
    for name, found in value.items():
        require(is_of_kind(found, (needed | optional)[name]), f"JSON has a strange {name}")
        require(name in needed or found, f"JSON has an empty {name}")
    return value
