"""The documents of the stack."""

import datetime
import decimal
import uuid

import bson
import pymongo
from bson.raw_bson import RawBSONDocument

from . import clients
from .words import binary, generator, sentences

# Documents of each collection that a day changes.
COUNTS = {
    "small": {"orders": 1_500, "audit_events": 1_000, "users": 200, "sessions": 300},
    "large": {"orders": 75_000, "audit_events": 75_000, "users": 10_000, "sessions": 20_000, "notifications": 19_000},
}
CONFIG_COLLECTIONS = {"small": 120, "large": 300}
ATTACHMENT_BYTES = {
    "small": (300_000, 2_500_000),
    "large": (300_000, 1_200_000, 2_500_000, 4_000_000, 6_000_000, 6_000_000, 3_000_000, 900_000),
}
ODD_NAMES = ("with space", "with.dots.in.it", "percent%25", "日本語", "UPPER", "upper", "dash-and_underscore")
BATCH_DOCUMENTS = 1_000
EPOCH = datetime.datetime(2026, 1, 1)
TEN_YEARS_SECS = 315_360_000
UPDATED, INSERTED, DELETED = 0.01, 0.01, 0.002


def fill(run):
    with clients.mongo(run) as client:
        database = client[run.database]
        for place, (name, count) in enumerate(COUNTS[run.seed].items()):
            insert(database, name, documents(run.seed, place, name, range(count)))
        fill_small_collections(database, run.seed)
        insert(database, "attachments", attachments(run.seed))
        insert(database, "types", [every_type()])
        for place, name in enumerate(ODD_NAMES):
            database[name].insert_one({"_id": place, "name": name})
        database.create_collection("empty")
        add_indexes(database)
        database.create_collection("active_orders", viewOn="orders", pipeline=[{"$match": {"status": "active"}}])
        database.create_collection("user_names", viewOn="users", pipeline=[{"$project": {"name": 1}}])
        # Beside the stack's own database: a snapshot must neither take it nor change it.
        client["orkestra_openapi_dump"]["paths"].insert_one({"_id": "/health", "verb": "get"})


def insert(database, name, made):
    """Inserts documents as bytes: the driver would otherwise encode each of them a second time."""
    batch, size = [], 0
    for document in made:
        encoded = bson.encode(document)
        batch.append(RawBSONDocument(encoded))
        size += len(encoded)
        if len(batch) == BATCH_DOCUMENTS or size > 8_000_000:
            send(database, name, batch)
            batch, size = [], 0
    if batch:
        send(database, name, batch)


def send(database, name, batch):
    reply = database.command({"insert": name, "documents": batch, "ordered": True})
    if reply["n"] != len(batch):
        raise RuntimeError(f"inserted {reply['n']} of {len(batch)} documents into {name}: {reply}")


def object_id(place, number):
    """Returns an id that grows with the number, as ids made by a driver do."""
    return bson.ObjectId(f"{0x65000000 + number // 40:08x}{place:06x}0000{number:06x}")


def documents(seed, place, name, numbers):
    rng = generator("mongodb", seed, name, numbers.start)
    texts = sentences(rng, 400)
    make = {"orders": order, "audit_events": audit_event, "users": user, "sessions": session,
            "notifications": notification}[name]
    for number in numbers:
        yield {"_id": object_id(place, number), **make(rng, texts, number)}


def order(rng, texts, number):
    return {
        "number": number, "tenant": f"t{number % 40:03d}", "status": rng.choice(("active", "paid", "shipped", "closed")),
        "amount": round(rng.uniform(5, 9000), 2), "rev": 0, "createdAt": EPOCH + datetime.timedelta(minutes=number),
        "lines": [{"sku": f"{rng.getrandbits(32):08x}", "qty": rng.randint(1, 9), "note": rng.choice(texts)}
                  for _ in range(rng.randint(1, 3))],
    }


def audit_event(rng, texts, number):
    return {"at": EPOCH + datetime.timedelta(seconds=37 * number), "actor": f"u{rng.randrange(5000)}",
            "verb": rng.choice(("create", "update", "delete", "login")), "rev": 0, "text": rng.choice(texts),
            "request": uuid.UUID(int=rng.getrandbits(128)).hex}


def user(rng, texts, number):
    return {"email": f"user{number}@example.org", "name": " ".join(rng.choice(texts).split()[:2]), "rev": 0,
            "roles": rng.sample(("admin", "editor", "reader", "billing"), 2), "passwordHash": rng.randbytes(32).hex()}


def session(rng, texts, number):
    return {"user": f"u{rng.randrange(5000)}", "token": bson.Binary(rng.randbytes(48)), "rev": 0,
            "createdAt": EPOCH + datetime.timedelta(minutes=number), "agent": rng.choice(texts)}


def notification(rng, texts, number):
    return {"to": f"u{rng.randrange(5000)}", "subject": rng.choice(texts)[:40], "body": " ".join(rng.sample(texts, 3)),
            "rev": 0, "read": rng.random() < 0.5}


def fill_small_collections(database, seed):
    for number in range(CONFIG_COLLECTIONS[seed]):
        name = f"cfg_{number:03d}"
        if number % 50 == 0:
            database.create_collection(name)
        else:
            insert(database, name, [{"_id": k, "value": f"{name}/{k}"} for k in range(number % 7 + 1)])


def attachments(seed):
    rng = generator("mongodb", seed, "attachments")
    texts = sentences(rng, 2_000)
    for number, size in enumerate(ATTACHMENT_BYTES[seed]):
        text = "\n".join(rng.choices(texts, k=size // 80))[: size // 2]
        yield {"_id": f"attachment-{number}", "text": text, "body": bson.Binary(binary(rng, size // 2)), "rev": 0}


def every_type():
    return {
        "_id": {"compound": 1, "id": "yes"}, "double": 1.5, "nan": float("nan"), "minus_zero": -0.0, "string": "añ日本",
        "empty": "", "object": {}, "array": [], "binary": bson.Binary(b"\x00\xff"), "uuid": bson.Binary(bytes(16), 4),
        "object_id": bson.ObjectId("650000000000000000000000"), "yes": True, "date": datetime.datetime(1960, 2, 3),
        "null": None, "regex": bson.Regex("^a.*b$", "im"), "code": bson.Code("function () { return 1 }"),
        "int32": 7, "int64": bson.Int64(7), "timestamp": bson.Timestamp(1_700_000_000, 3),
        "decimal": bson.Decimal128(decimal.Decimal("12.3400")), "min": bson.MinKey(), "max": bson.MaxKey(),
        "dotted.name": 1, "$dollar": 2,
    }


def add_indexes(database):
    database.orders.create_index("tenant")
    database.orders.create_index("createdAt", expireAfterSeconds=TEN_YEARS_SECS)
    database.orders.create_index([("status", 1), ("amount", -1)], name="status and amount")
    database.users.create_index("email", unique=True)
    database.users.create_index([("name", 1), ("email", -1)], sparse=True)
    database.audit_events.create_index("at")
    database.sessions.create_index("user", partialFilterExpression={"rev": {"$gte": 0}})
    database.cfg_001.create_index("value", unique=True)


def change(run):
    """Updates where a document is, appends at the end, deletes here and there."""
    rng = generator("mongodb", run.seed, "day", run.days)
    totals = {"updated": 0, "inserted": 0, "deleted": 0}
    with clients.mongo(run) as client:
        database = client[run.database]
        for place, (name, count) in enumerate(COUNTS[run.seed].items()):
            ids = [each["_id"] for each in database[name].find({}, {"_id": 1})]
            touched = rng.sample(ids, max(1, int(len(ids) * (UPDATED + DELETED))))
            gone, updated = touched[: max(1, int(len(ids) * DELETED))], touched[max(1, int(len(ids) * DELETED)):]
            database[name].bulk_write([pymongo.UpdateOne({"_id": each}, {"$inc": {"rev": 1}, "$set": {
                "changedAt": EPOCH + datetime.timedelta(days=run.days)}}) for each in updated], ordered=False)
            database[name].delete_many({"_id": {"$in": gone}})
            added = max(1, int(count * INSERTED))
            first = count + (run.days - 1) * added
            insert(database, name, documents(run.seed, place, name, range(first, first + added)))
            totals["updated"] += len(updated)
            totals["inserted"] += added
            totals["deleted"] += len(gone)
        database.attachments.update_one({"_id": "attachment-0"}, {"$inc": {"rev": 1}})
        database[f"new_on_day_{run.days}"].insert_one({"_id": 1, "day": run.days})
        database.orders.create_index(f"day_{run.days}", sparse=True)
        database.drop_collection(f"cfg_{60 + run.days:03d}")
    return "mongodb: " + ", ".join(f"{number} {word}" for word, number in totals.items())
