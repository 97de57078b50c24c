"""The command line of tests/stack/stack."""

import argparse
import json
import pathlib
import shlex
import signal
import sys
import time

from . import day, seed, services, state
from .layout import RUNS, Run, StackError

SHOWN_DIFFERENCES = 60


def parser():
    top = argparse.ArgumentParser(prog="stack", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def command(name, help):
        added = commands.add_parser(name, help=help)
        added.add_argument("--name", help="of the run (default: orkdemo, or orkestra with --style old)")
        added.add_argument("--style", choices=("old", "new"), default="new", help="of Orkestra's names (default: new)")
        return added

    up = command("up", "start the servers, and seed them")
    up.add_argument("--seed", choices=("none", "small", "large"), default="small")
    up.add_argument("--redis-variant", choices=sorted(services.REDIS_VARIANTS), default="default")
    command("seed", "fill a stack that was started with --seed none").add_argument(
        "--seed", choices=("small", "large"), default="small")
    command("day", "change the stack as a working day does")
    command("state", "write what the stack holds, as JSON").add_argument("file", type=pathlib.Path)
    command("env", "print shell exports")
    command("down", "stop and remove everything of this run")
    commands.add_parser("list", help="name the runs that are up")
    compare = commands.add_parser("compare", help="compare two states; exit 1 if they differ")
    compare.add_argument("first", type=pathlib.Path)
    compare.add_argument("second", type=pathlib.Path)
    compare.add_argument("--only", action="append", choices=state.PARTS, help="may be given several times")
    compare.add_argument("--map-db", metavar="FROM=TO", help="compare database FROM of the first with TO of the second")
    compare.add_argument("--allow-added", action="store_true",
                         help="count collections and objects that only the second has, instead of reporting them")
    return top


def main(arguments):
    options = parser().parse_args(arguments)
    if options.command == "compare":
        return compare(options)
    if options.command == "list":
        print("\n".join(sorted(path.parent.name for path in RUNS.glob("*/run.json"))))
        return 0
    name = options.name or ("orkdemo" if options.style == "new" else "orkestra")
    if options.command == "up":
        return up(Run(name, options.style, options.redis_variant, options.seed))
    run = Run.load(name)
    if options.command == "env":
        sys.stdout.write("".join(f"export {k}={shlex.quote(v)}\n" for k, v in services.exports(run).items()))
    elif options.command == "down":
        services.down(run)
    elif options.command == "seed":
        run.seed = options.seed
        seed.fill(run)
        run.save()
    elif options.command == "day":
        day.change(run)
    elif options.command == "state":
        options.file.write_text(json.dumps(state.read(run), indent=1, sort_keys=True, ensure_ascii=False))
    return 0


def up(run):
    started = time.monotonic()
    services.up(run)
    running = time.monotonic()
    if run.seed != "none":
        seed.fill(run)
    print(f"stack: {run.name} is up ({running - started:.1f} s), {run.seed} seed ({time.monotonic() - running:.1f} s), "
          f"mongo tools: {run.tools}, directory: {run.stack_dir}")
    return 0


def compare(options):
    first, second = (json.loads(path.read_text()) for path in (options.first, options.second))
    lines, differences = state.compare(first, second, options.only or state.PARTS, options.map_db, options.allow_added)
    for line in differences[:SHOWN_DIFFERENCES]:
        print(f"differs: {line}")
    if len(differences) > SHOWN_DIFFERENCES:
        print(f"... and {len(differences) - SHOWN_DIFFERENCES} more")
    for line in lines:
        print(line)
    print(f"compared in all: {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    # As an exception, so that what was half started is taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(sys.argv[1:]))
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
