"""Where a run keeps its files, and what it remembers between two calls of the command."""

import dataclasses
import json
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[3]
CACHE = pathlib.Path(os.environ.get("ORKVAULT_STACK_CACHE", ROOT / "target" / "stack-cache"))
RUNS = ROOT / "target" / "stack"
MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
SERVICES = ("mongodb", "redis", "rustfs")


class StackError(Exception):
    """What the operator reads instead of a traceback."""


@dataclasses.dataclass
class Run:
    """One stack: its names, ports, credentials and what was started for it."""

    name: str
    style: str
    redis_variant: str
    seed: str
    environment: str = "development"
    tools: str = ""
    tools_dir: str = ""
    database: str = "orkestra"
    days: int = 0
    network: str = ""
    containers: dict = dataclasses.field(default_factory=dict)
    container_ids: dict = dataclasses.field(default_factory=dict)
    volumes: dict = dataclasses.field(default_factory=dict)
    ports: dict = dataclasses.field(default_factory=dict)
    secrets: dict = dataclasses.field(default_factory=dict)

    @property
    def home(self):
        """Everything of this run."""
        return RUNS / self.name

    @property
    def stack_dir(self):
        """What Orkestra calls the repository root: holds docker/.env and docker/keys."""
        return self.home / "orkestra"

    @property
    def env_file(self):
        return self.stack_dir / "docker" / ".env"

    def save(self):
        """Writes the run, readable by its owner only: it holds the test servers' passwords."""
        self.home.mkdir(parents=True, exist_ok=True)
        path = self.home / "run.json"
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(dataclasses.asdict(self), file, indent=1)
        temporary.replace(path)

    @classmethod
    def load(cls, name):
        path = RUNS / name / "run.json"
        if not path.exists():
            raise StackError(f"no stack of the name {name}: start it with `up --name {name}`")
        return cls(**json.loads(path.read_text()))
