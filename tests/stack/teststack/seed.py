"""What a stack holds before its first night: the same for the same size, on every machine."""

import concurrent.futures

from . import seed_mongodb, seed_redis, seed_rustfs


def fill(run):
    """Seeds the three servers, at once: they wait for each other's processor, not for each other."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = [pool.submit(part.fill, run) for part in (seed_mongodb, seed_redis, seed_rustfs)]
    for each in done:
        each.result()
