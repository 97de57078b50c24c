"""Turns what was measured into one table and a list of goals, in Markdown."""

from dataclasses import dataclass, field
from statistics import median

MIB = 1024 * 1024
JOBS = ["first night", "next night", "restore", "check"]
# Times of the best peer that the jobs may take, net of key derivation.
TIMES_MAX = {"first night": 0.40, "next night": 0.20, "restore": 0.40, "check": 0.50}
# The jobs for which orkvault derives a key from a passphrase.
DERIVING = ["restore", "check"]
TITLES = {
    "first night": "first night",
    "next night": "next night",
    "restore": "restore of the stream to /dev/null",
    "check": "check of every byte",
}


@dataclass
class Figures:
    """What one tool did: per job the wall times in seconds and peaks in bytes of every round."""

    version: str
    secs: dict = field(default_factory=dict)
    peaks: dict = field(default_factory=dict)
    # Bytes in the repository after the first night, and by how many the next one made it grow.
    first_bytes: list = field(default_factory=list)
    growth_bytes: list = field(default_factory=list)
    key_derivation_secs: list = field(default_factory=list)
    # Peaks without the key derivation's own memory.
    net_peaks: dict = field(default_factory=dict)

    def time(self, job):
        """Returns the median time of a job in seconds, None when it was not measured."""
        return middle(self.secs.get(job))

    def net_time(self, job):
        """Returns the median time of a job without the key derivation's."""
        secs, derivation = self.secs.get(job), middle(self.key_derivation_secs)
        return max(0.0, median(secs) - derivation) if secs and derivation is not None else None

    def peak(self, job):
        return max(self.peaks.get(job, []), default=None)


@dataclass
class Reference:
    """`zstd -3 -T2` of the first night into a file: what no tool that compresses so can beat by much."""

    secs: list
    bytes: int


def middle(values):
    return median(values) if values else None


def ratio(value, base):
    return value / base if value is not None and base else None


def best(figures, peers, pick):
    """Returns the smallest value among the peers, and whose it is."""
    values = [(pick(figures[name]), name) for name in peers if name in figures and pick(figures[name]) is not None]
    return min(values, default=(None, None))


def rows():
    """Returns the rows of the table: title, what it takes from a tool, what from its best peer, how it is written."""
    table = []

    def add(title, write, pick, peer_pick=None):
        table.append((title, pick, peer_pick or pick, write))

    def time(job):
        return lambda figure: figure.time(job)

    def peak(job):
        return lambda figure: figure.peak(job)

    for job in JOBS:
        add(f"{TITLES[job]}, s", seconds, time(job))
        if job == "first night":
            add("first night, stored MiB", mebibytes, lambda figure: middle(figure.first_bytes))
        if job == "next night":
            add("next night, growth MiB", mebibytes, lambda figure: middle(figure.growth_bytes))
        if job in DERIVING:
            # A peer's key derivation is not known apart: its whole time stands beside our net time.
            title = f"{TITLES[job]}, net of key derivation, s"
            add(title, seconds, lambda figure, job=job: figure.net_time(job), time(job))
    for job in JOBS:
        add(f"peak memory, {job}, MiB", mebibytes, peak(job))
    for job in DERIVING:
        title = f"peak memory, {job}, after key derivation, MiB"
        add(title, mebibytes, lambda figure, job=job: figure.net_peaks.get(job), peak(job))
    return table


def seconds(value):
    return f"{value:.2f}"


def mebibytes(value):
    return f"{value / MIB:.2f}" if value < 10 * MIB else f"{value / MIB:.1f}"


def table(figures, problems, reference, peers, own, tools):
    """Returns the table's lines. `problems` says of each tool that has no figures why."""
    heads = [f"{name} {figures[name].version}" if name in figures else name for name in tools]
    lines = [f"| | zstd -3 -T2 | {' | '.join(heads)} | best peer | {own} / best peer |"]
    lines.append("|---|" + "---|" * (len(tools) + 3))
    first_night = {
        "first night, s": seconds(median(reference.secs)),
        "first night, stored MiB": mebibytes(reference.bytes),
    }
    for title, pick, peer_pick, write in rows():
        cells = []
        for name in tools:
            value = pick(figures[name]) if name in figures else None
            missing = why_not(problems.get(name))
            cells.append(write(value) if value is not None else missing)
        value, name = best(figures, peers, peer_pick)
        ours = pick(figures[own]) if own in figures else None
        share = ratio(ours, value)
        winner = f"{name} {write(value)}" if name else "–"
        cells = [first_night.get(title, ""), *cells, winner, f"{share:.3f}" if share is not None else "–"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def why_not(problem):
    """Returns what stands where a figure is missing."""
    if problem is None:
        return "–"
    return "missing" if problem.startswith("missing") else "failed"


def goals(figures, reference, peers, own):
    """Returns (what, limit, measured or None) of every goal that this comparison can tell."""
    ours = figures.get(own)
    found = []

    def add(what, limit, measured):
        found.append((what, limit, measured))

    def of_best(pick, peer_pick=None):
        value, _ = best(figures, peers, peer_pick or pick)
        return ratio(pick(ours), value) if ours else None

    def time(job):
        return lambda figure: figure.time(job)

    def growth(figure):
        return middle(figure.growth_bytes)

    for job in JOBS:
        add(f"{job}: time / best peer's, no slower", 1.0, of_best(time(job)))
    add("next night: growth / best peer's, first release", 1 / 5, of_best(growth))
    add("first night: time / best peer's", TIMES_MAX["first night"], of_best(time("first night")))
    _, fastest = best(figures, peers, time("first night"))
    stored = ratio(middle(ours.first_bytes), middle(figures[fastest].first_bytes)) if ours and fastest else None
    add("first night: bytes / those of the fastest peer", 1.08, stored)
    of_zstd = ratio(ours.time("first night"), median(reference.secs)) if ours else None
    add("first night: time / `zstd -3 -T2`", 1.40, of_zstd)
    add("next night: time / best peer's", TIMES_MAX["next night"], of_best(time("next night")))
    add("next night: growth / best peer's", 1 / 40, of_best(growth))
    chain = figures.get("duplicity")
    if chain:
        add("next night: growth / duplicity's", 0.35, ratio(growth(ours), growth(chain)) if ours else None)
    for job in DERIVING:
        net = of_best(lambda figure, job=job: figure.net_time(job), time(job))
        add(f"{job}: time net of key derivation / best peer's", TIMES_MAX[job], net)
    add("restore: time / best peer's", 0.80, of_best(time("restore")))
    for job in JOBS:
        peak = ours and (ours.net_peaks.get(job) if job in DERIVING else ours.peak(job))
        add(f"{job}: peak memory beside key derivation, MiB", 128, peak / MIB if peak else None)
    return found


def floor_lines(figures, floor, peers, own):
    """Returns what the jobs take beside what they cannot do without, as a table: where a goal is out of reach, it says so."""
    lines = [
        f"| | the work alone, s | {own}, s | {own} / work alone | best peer, s | work alone / best peer | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for job, alone in floor.items():
        title = f"{job}, net of key derivation" if job in DERIVING else job
        ours = figures[own].net_time(job) if job in DERIVING else figures[own].time(job)
        peer, _ = best(figures, peers, lambda figure, job=job: figure.time(job))
        cells = [alone, ours, ratio(ours, alone), peer, ratio(alone, peer)]
        written = " | ".join("–" if cell is None else f"{cell:.2f}" for cell in cells)
        lines.append(f"| {title} | {written} | ≤ {TIMES_MAX[job]:.2f} |")
    return lines


def goal_lines(found):
    """Returns the list of goals as a table."""
    lines = ["| goal | limit | measured | |", "|---|---|---|---|"]
    for what, limit, measured in found:
        verdict = "not measured" if measured is None else "met" if measured <= limit else "**missed**"
        said = "–" if measured is None else f"{measured:.3f}" if limit < 10 else f"{measured:.1f}"
        lines.append(f"| {what} | ≤ {limit:g} | {said} | {verdict} |")
    return lines
