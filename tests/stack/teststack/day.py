"""One working day: about 1 % of the documents updated, 1 % inserted, 0.2 % deleted, and a little of everything else."""

import concurrent.futures

from . import seed_mongodb, seed_redis, seed_rustfs, seed_secrets


def change(run):
    """Changes the three servers and the secret files as the next day does, and counts the day."""
    run.days += 1
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = [pool.submit(part.change, run) for part in (seed_mongodb, seed_redis, seed_rustfs, seed_secrets)]
    for line in [each.result() for each in done]:
        print(f"stack: day {run.days}: {line}")
    run.save()
