"""Text that compresses as people's text does, the same from the same seed."""

import hashlib
import random

WORDS = ("invoice order customer north south region memo line note item active pending delivery address street harbour "
         "window garden payment refund account profile avatar upload quarterly report meeting agenda budget contract "
         "renewal terms signature approval warehouse shelf pallet carrier tracking number holiday weather coffee "
         "kitchen table chair lamp paper pencil folder archive letter envelope stamp").split()


def generator(*seed):
    """Returns a random generator that gives the same numbers for the same seed on every machine."""
    return random.Random(hashlib.sha256(repr(seed).encode()).digest())


def sentences(rng, count):
    return [" ".join(rng.choices(WORDS, k=rng.randint(6, 18))) for _ in range(count)]


def binary(rng, length):
    """Returns bytes that do not compress."""
    return rng.randbytes(length)
