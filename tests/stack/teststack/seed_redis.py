"""The keys of the stack: every type, some that expire, some in a second database."""

from . import clients
from .words import binary, generator, sentences

COUNTS = {"small": 200, "large": 20_000}
BATCH_KEYS = 2_000
# Far enough away that none is gone when two states are compared, and absolute, so that both show the same time.
EXPIRES_AT_MILLIS = 4_000_000_000_000


def fill(run):
    rng = generator("redis", run.seed)
    texts = sentences(rng, 300)
    with clients.redis_client(run) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(COUNTS[run.seed]):
            one_key(pipe, rng, texts, number)
            if number % BATCH_KEYS == BATCH_KEYS - 1:
                pipe.execute()
        pipe.execute()
        odd_keys(client, rng)
    with clients.redis_client(run, db=1) as client:
        client.set("second-database", "yes")
        client.hset("second-hash", mapping={"a": "1"})


def one_key(pipe, rng, texts, number):
    """Adds a key of the type whose turn it is."""
    kind = number % 8
    if kind < 3:
        pipe.set(f"session:{number}", rng.choice(texts))
        if kind == 0:
            pipe.pexpireat(f"session:{number}", EXPIRES_AT_MILLIS + number)
    elif kind == 3:
        pipe.hset(f"user:{number}", mapping={"name": rng.choice(texts)[:20], "hits": rng.randrange(1000)})
    elif kind == 4:
        pipe.rpush(f"queue:{number}", *rng.choices(texts, k=5))
    elif kind == 5:
        pipe.sadd(f"tags:{number}", *[f"t{rng.randrange(100)}" for _ in range(8)])
    elif kind == 6:
        pipe.zadd(f"rank:{number}", {f"u{k}": rng.uniform(-5, 5) for k in range(6)})
    else:
        pipe.set(f"counter:{number}", rng.randrange(10**9))


def odd_keys(client, rng):
    client.set(b"\x00binary\xff key", binary(rng, 4_000))
    client.set("", "the empty key")
    client.set("日本語", "値")
    client.set("large", binary(rng, 1_000_000))
    client.rpush("long-list", *range(2_000))
    client.hset("large-hash", mapping={f"f{k}": "v" * 100 for k in range(1_000)})
    client.sadd("integers", *range(100))
    for number in range(50):
        client.xadd("events", {"n": number}, id=f"{1_700_000_000_000 + number}-1")
    client.xgroup_create("events", "workers", id="0")
    client.hset("expiring-hash", "a", "b")
    client.pexpireat("expiring-hash", EXPIRES_AT_MILLIS)


def change(run):
    rng = generator("redis", run.seed, "day", run.days)
    count = COUNTS[run.seed]
    changed = max(5, count // 100)
    with clients.redis_client(run) as client:
        for number in rng.sample(range(count // 8), changed):
            client.set(f"session:{8 * number + 1}", f"day {run.days}")
        for number in range(changed):
            client.hset(f"day:{run.days}:{number}", "made", run.days)
        gone = client.delete(*[f"counter:{8 * number + 7}" for number in rng.sample(range(count // 8), changed)])
        client.rpush("long-list", f"day {run.days}")
        client.xadd("events", {"day": run.days}, id=f"{1_700_001_000_000 + run.days}-1")
    return f"redis: {changed} changed, {changed} added, {gone} deleted"
