"""The buckets of the stack."""

import concurrent.futures
import gzip

from . import clients
from .words import binary, generator, sentences

AVATARS, DOCUMENTS, EXPORTS, EMPTY = "orkestra-avatars", "orkestra-documents", "orkestra-exports", "orkestra-empty"
SMALL_OBJECTS = {"small": 60, "large": 1_500}
LARGE_OBJECT_BYTES = {"small": (3_000_000, 6_000_000), "large": (20_000_000, 30_000_000, 30_000_000, 48_000_000)}
WRITERS = 8
# What a filesystem, a URL, an XML listing or a shell each get wrong.
ODD_KEYS = (
    "dir/", "dir/inside.txt", "a", "a/b", "with space.txt", " leading and trailing ", "plus+sign.txt", "percent%25.txt",
    "percent%zz", "ampersand&equals=question?.txt", "hash#.txt", "quote'\".txt", "unicode/日本語-é.txt", "emoji-🦀",
    "decomposed-e\u0301", "composed-\u00e9", "control-\x04.bin", "tab\t.txt", "CASE", "case", "~tilde", "semi;colon,comma",
    "less<than>.xml", "brace{}[]|^`.txt", "asterisk*", "dots.../..x", "zero-bytes",
    "long/" + "/".join(letter * 200 for letter in "wxyz"), "deep/" * 40 + "leaf",
)


def fill(run):
    client = clients.s3(run)
    for bucket in (AVATARS, DOCUMENTS, EXPORTS, EMPTY):
        client.create_bucket(Bucket=bucket)
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda request: client.put_object(**request), requests(run)))


def requests(run):
    rng = generator("rustfs", run.seed)
    texts = sentences(rng, 300)
    for number in range(SMALL_OBJECTS[run.seed]):
        yield avatar(rng, number)
    for number in range(SMALL_OBJECTS[run.seed]):
        yield document(rng, texts, number)
    for place, key in enumerate(ODD_KEYS):
        body = b"" if key.endswith("/") or key == "zero-bytes" else f"odd {place}".encode()
        yield {"Bucket": DOCUMENTS, "Key": key, "Body": body, "ContentType": "text/plain", "Metadata": {"place": str(place)}}
    for number, size in enumerate(LARGE_OBJECT_BYTES[run.seed]):
        half = "\n".join(rng.choices(texts, k=size // 120)).encode()[: size // 2]
        yield {"Bucket": EXPORTS, "Key": f"2026/export-{number}.bin", "Body": half + binary(rng, size - len(half)),
               "ContentType": "application/octet-stream", "Tagging": "kind=export&keep=yes"}


def avatar(rng, number):
    """Returns one without an extension: its content type cannot be guessed back."""
    return {"Bucket": AVATARS, "Key": f"avatars/{number:05d}", "Body": b"\x89PNG\r\n" + binary(rng, rng.randint(800, 12_000)),
            "ContentType": ("image/png", "image/jpeg", "image/webp")[number % 3], "CacheControl": "public, max-age=31536000",
            "Metadata": {"owner": f"u{number}", "crop": f"{rng.randrange(90)} {rng.randrange(90)}"}}


def document(rng, texts, number):
    request = {"Bucket": DOCUMENTS, "Key": f"tenants/t{number % 12:02d}/{number:05d}.html",
               "Body": "\n".join(rng.choices(texts, k=rng.randint(5, 120))).encode(), "ContentType": "text/html; charset=utf-8"}
    if number % 5 == 0:
        request["Tagging"] = f"tenant=t{number % 12:02d}&state=final%20version"
    if number % 7 == 0:
        request |= {"ContentDisposition": f'attachment; filename="d{number}.html"', "ContentLanguage": "de"}
    if number % 11 == 0:
        request |= {"Body": gzip.compress(request["Body"], mtime=0), "ContentEncoding": "gzip"}
    return request


def change(run):
    rng = generator("rustfs", run.seed, "day", run.days)
    client = clients.s3(run)
    count = SMALL_OBJECTS[run.seed]
    changed = max(2, count // 200)
    for number in rng.sample(range(count), changed):
        client.put_object(**avatar(rng, number))
    for number in range(changed):
        client.put_object(**avatar(rng, count + run.days * 10_000 + number))
    gone = rng.sample(range(1, count), changed)
    for number in gone:
        client.delete_object(Bucket=DOCUMENTS, Key=f"tenants/t{number % 12:02d}/{number:05d}.html")
    client.put_object(Bucket=DOCUMENTS, Key="zero-bytes", Body=b"no more", ContentType="text/plain")
    client.put_object_tagging(Bucket=EXPORTS, Key="2026/export-0.bin",
                              Tagging={"TagSet": [{"Key": "day", "Value": str(run.days)}]})
    return f"rustfs: {changed + 2} changed, {changed} added, {changed} deleted"
