"""Connections from the host to the three servers, through their published ports."""

import boto3
import botocore.config
import pymongo
import redis
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

TIMEOUT_MILLIS = 60_000


def mongo(run, timeout_millis=TIMEOUT_MILLIS):
    return pymongo.MongoClient(
        "127.0.0.1", run.ports["mongodb"], username="admin", password=run.secrets["mongo_password"],
        authSource="admin", directConnection=True, serverSelectionTimeoutMS=timeout_millis,
    )


def raw(database):
    """Returns the same database with documents as the bytes that the server sends."""
    return database.with_options(codec_options=CodecOptions(document_class=RawBSONDocument))


def redis_client(run, db=0):
    return redis.Redis("127.0.0.1", run.ports["redis"], db=db, password=run.secrets["redis_password"])


def s3(run):
    config = botocore.config.Config(
        proxies={}, s3={"addressing_style": "path"}, retries={"max_attempts": 2}, max_pool_connections=32,
        request_checksum_calculation="when_required", response_checksum_validation="when_required",
    )
    return boto3.session.Session().client(
        "s3", endpoint_url=f"http://127.0.0.1:{run.ports['rustfs']}", region_name="us-east-1", config=config,
        aws_access_key_id=run.secrets["s3_access"], aws_secret_access_key=run.secrets["s3_secret"],
    )


def mongo_answers(run):
    try:
        with mongo(run, timeout_millis=1000) as client:
            return client.admin.command("listDatabases")["ok"] == 1
    except pymongo.errors.PyMongoError:
        return False


def redis_answers(run):
    try:
        with redis_client(run) as client:
            return client.info("persistence")["loading"] == 0
    except redis.exceptions.RedisError:
        return False


def s3_answers(run):
    try:
        s3(run).list_buckets()
    except Exception:  # boto3's errors have no common base below Exception
        return False
    return True
