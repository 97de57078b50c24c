"""Brings the three servers up in containers named, labelled and confined as Orkestra's are, and takes them down."""

import base64
import concurrent.futures
import os
import secrets
import shlex
import shutil
import socket
import sys
import time

from . import clients, images
from .docker import answers, docker, ensure_daemon, inspect, require_programs, stop_daemon
from .layout import CACHE, MINIO_VERSION, SERVICES, StackError

READY_LIMIT_SECS = 90
CONTAINER_PORTS = {"mongodb": (27017,), "redis": (6379,), "rustfs": (9000, 9001)}
DATA_DIRS = {"mongodb": "/data/db", "redis": "/data", "rustfs": "/data"}
REDIS_VARIANTS = {
    "default": ["--dir", "/data", "--appendonly", "yes"],
    "dir-root": ["--dir", "/", "--appendonly", "yes"],
    "aof-off": ["--dir", "/data", "--appendonly", "no", "--save", "3600 1 300 100"],
}


def up(run):
    """Starts the run. Whatever is left of an unfinished start is taken down again."""
    require_programs()
    if (run.home / "run.json").exists():
        raise StackError(f"the stack {run.name} is up: take it down first, or choose another --name")
    run.tools, run.tools_dir = images.find_tools()
    if run.tools == "stand-in":
        print("stack: mongodump and mongorestore are not here (PATH, ORKVAULT_MONGO_TOOLS): using stand-ins of our own",
              flush=True)
    ensure_daemon()
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            tags = dict(zip(SERVICES, pool.map(lambda service: images.ensure(service, run.tools_dir), SERVICES)))
        name_things(run)
        for container in run.containers.values():
            if docker("ps", "--all", "--quiet", "--filter", f"name=^/{container}$"):
                raise StackError(f"a container of the name {container} is there already")
    except BaseException:
        shutil.rmtree(run.home, ignore_errors=True)
        stop_daemon()
        raise
    run.save()
    try:
        start(run, tags)
    except BaseException:
        down(run)
        raise


def name_things(run):
    """Gives the run its names, ports, credentials and its stack directory."""
    if run.style == "new":
        project = f"{run.name}-{run.environment}"
        run.containers = {service: f"{run.name}-{service}-{run.environment}" for service in SERVICES}
        run.volumes = {service: f"{project}_{service}-data" for service in SERVICES}
        run.network = f"{project}_default"
    else:
        run.containers = {service: f"{run.name}-{service}" for service in SERVICES}
        run.volumes = {service: f"{run.name}-{service}-data" for service in SERVICES}
        run.network = f"{run.name}-network"
    run.ports = dict(zip(("mongodb", "redis", "rustfs", "rustfs_console"), free_ports(4)))
    run.secrets = {
        # Signs that a URI, a YAML file and a dotenv file each treat in their own way.
        "mongo_password": f"p:w@/%25#'{secrets.token_urlsafe(12)}",
        "redis_password": f"r#{secrets.token_urlsafe(16)}",
        "s3_access": f"orkestra{secrets.token_hex(4)}",
        "s3_secret": secrets.token_urlsafe(24),
    }
    write_stack_dir(run)


def free_ports(count):
    """Returns ports that nobody listens on. All are held until all are chosen, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def write_stack_dir(run):
    docker_dir = run.stack_dir / "docker"
    keys = docker_dir / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    keys.chmod(0o700)
    (docker_dir / "docker-compose.infra.yml").write_text(
        "# Written by tests/stack: marks the directory of a stack. Its containers were not started by Compose.\n"
        "services: {mongodb: {}, redis: {}, rustfs: {}}\n"
    )
    write_file(run.env_file, dotenv(run).encode(), 0o600)
    for name, label, mode in (("jwt-private.pem", "PRIVATE KEY", 0o600), ("jwt-public.pem", "PUBLIC KEY", 0o644),
                              ("apple.p8", "PRIVATE KEY", 0o600)):
        write_file(keys / name, pem(label), mode)


def write_file(path, content, mode):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    path.chmod(mode)


def pem(label):
    """Returns something of the shape of a key that opens nothing."""
    body = base64.encodebytes(secrets.token_bytes(1200)).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


def dotenv(run):
    """Returns docker/.env as an operator has it: comments, quotes, empty values."""
    known = run.secrets
    head = [f"APP_NAME={run.name}"] if run.style == "new" else []
    lines = [
        "# Orkestra, infrastructure. Generated: test servers only.",
        *head,
        f"ENV={run.environment}",
        "INFRA_BIND_ADDRESS=127.0.0.1",
        "HOST_BIND_ADDRESS=127.0.0.1",
        "",
        "# MongoDB",
        "MONGO_HOST=mongodb",
        "MONGO_PORT=27017",
        "MONGO_ROOT_USERNAME=admin",
        f'MONGO_ROOT_PASSWORD="{known["mongo_password"]}"',
        f"MONGO_DATABASE={run.database}",
        "",
        "# Redis",
        "REDIS_HOST=redis",
        "REDIS_PORT=6379",
        f"REDIS_PASSWORD={known['redis_password']}",
        "REDIS_DB=0",
        "",
        "# RustFS",
        f"RUSTFS_ROOT_USER={known['s3_access']}",
        f"RUSTFS_ROOT_PASSWORD={known['s3_secret']}",
        f"RUSTFS_API_PORT={run.ports['rustfs']}",
        f"RUSTFS_CONSOLE_PORT={run.ports['rustfs_console']}",
        f"STORAGE_ENDPOINT=http://{run.containers['rustfs']}:9000",
        f"STORAGE_ACCESS_KEY={known['s3_access']}",
        f"STORAGE_SECRET_KEY={known['s3_secret']}",
        "STORAGE_REGION=us-east-1",
        "STORAGE_BUCKET=orkestra-avatars",
        "STORAGE_BUCKET_PREFIX=orkestra",
        "STORAGE_FORCE_PATH_STYLE=true",
        "",
        "# Without these a restored database is of no use.",
        f"OAUTH_TOKEN_ENCRYPTION_KEY={secrets.token_hex(32)}",
        f"ORKESTRA_KMS_MASTER_KEY='{secrets.token_urlsafe(32)}'",
        f"export COOKIE_SECRET={secrets.token_hex(32)}",
        "SMTP_PASSWORD=",
    ]
    return "\n".join(lines) + "\n"


def start(run, tags):
    docker("network", "create", "--label", f"orkvault-test={run.name}", run.network)
    for service in SERVICES:
        docker("volume", "create", "--label", f"orkvault-test={run.name}", run.volumes[service])
        run.container_ids[service] = docker(*container_arguments(run, service), tags[service], *command(run, service))
        run.save()
    for service in SERVICES:
        wait_until_ready(run, service)
    write_exports(run)


def container_arguments(run, service):
    """Returns what stands before the image in `docker run`."""
    project = f"{run.name}-{run.environment}" if run.style == "new" else run.name
    labels = {"orkvault-test": run.name, "com.docker.compose.project": project,
              "com.docker.compose.service": service}
    if run.style == "new":
        labels["orkestra.stack"] = project
    arguments = ["run", "--detach", "--name", run.containers[service], "--hostname", service,
                 "--network", run.network, "--network-alias", service,
                 "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--restart", "unless-stopped",
                 "--volume", f"{run.volumes[service]}:{DATA_DIRS[service]}"]
    for key, value in labels.items():
        arguments += ["--label", f"{key}={value}"]
    for inside, outside in zip(CONTAINER_PORTS[service], ports_of(run, service)):
        arguments += ["--publish", f"127.0.0.1:{outside}:{inside}"]
    for key, value in environment(run, service).items():
        arguments += ["--env", f"{key}={value}"]
    return arguments


def ports_of(run, service):
    return [run.ports["rustfs"], run.ports["rustfs_console"]] if service == "rustfs" else [run.ports[service]]


def environment(run, service):
    known = run.secrets
    if service == "mongodb":
        return {"MONGO_INITDB_ROOT_USERNAME": "admin", "MONGO_INITDB_ROOT_PASSWORD": known["mongo_password"],
                "MONGO_INITDB_DATABASE": run.database}
    if service == "rustfs":
        return {"RUSTFS_ACCESS_KEY": known["s3_access"], "RUSTFS_SECRET_KEY": known["s3_secret"],
                "MINIO_ROOT_USER": known["s3_access"], "MINIO_ROOT_PASSWORD": known["s3_secret"],
                "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
    return {}


def command(run, service):
    if service == "redis":
        return ["redis-server", *REDIS_VARIANTS[run.redis_variant], "--requirepass", run.secrets["redis_password"]]
    if service == "rustfs":
        return ["server", "/data", "--address", ":9000", "--console-address", ":9001", "--quiet"]
    return []


def wait_until_ready(run, service):
    probe = {"mongodb": clients.mongo_answers, "redis": clients.redis_answers, "rustfs": clients.s3_answers}[service]
    deadline = time.monotonic() + READY_LIMIT_SECS
    while not probe(run):
        state = inspect(run.containers[service])["State"]
        if time.monotonic() > deadline or state["Status"] in ("exited", "restarting"):
            done = docker("logs", "--tail", "30", run.containers[service], check=False)
            raise StackError(f"{service} does not come up (state {state['Status']}, exit {state['ExitCode']}):\n{done}")
        time.sleep(0.1)


def exports(run):
    """Returns what the tests need to know, as environment variables."""
    return {
        "ORKVAULT_TEST_STACK_NAME": run.name,
        "ORKVAULT_TEST_STACK_STYLE": run.style,
        "ORKVAULT_TEST_STACK_DIR": str(run.stack_dir),
        "ORKVAULT_TEST_STACK_ENV_FILE": str(run.env_file),
        "ORKVAULT_TEST_STACK_RUN_FILE": str(run.home / "run.json"),
        "ORKVAULT_TEST_NETWORK": run.network,
        "ORKVAULT_TEST_MONGODB_CONTAINER": run.containers["mongodb"],
        "ORKVAULT_TEST_REDIS_CONTAINER": run.containers["redis"],
        "ORKVAULT_TEST_RUSTFS_CONTAINER": run.containers["rustfs"],
        "ORKVAULT_TEST_MONGODB_PORT": str(run.ports["mongodb"]),
        "ORKVAULT_TEST_REDIS_PORT": str(run.ports["redis"]),
        "ORKVAULT_TEST_RUSTFS_PORT": str(run.ports["rustfs"]),
        "ORKVAULT_TEST_MONGODB_DATABASE": run.database,
        "ORKVAULT_TEST_MONGO_TOOLS": run.tools,
        "ORKVAULT_TEST_MONGO_TOOLS_DIR": str(images.host_tools(run.tools_dir)),
        "ORKVAULT_TEST_REDIS_VARIANT": run.redis_variant,
        "ORKVAULT_TEST_PYTHON": sys.executable,
        "ORKVAULT_MINIO": str(CACHE / "minio" / MINIO_VERSION / "minio"),
    }


def write_exports(run):
    text = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in exports(run).items())
    (run.home / "stack.env").write_text(text)


def down(run):
    """Stops and removes what this run started, by id and by its own names, and the daemon if it was started here."""
    if not answers():
        raise StackError("no docker daemon answers: nothing was taken down")
    label = f"label=orkvault-test={run.name}"
    containers = docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()
    if containers:
        docker("rm", "--force", "--volumes", *containers)
    for kind in ("network", "volume"):
        found = docker(kind, "ls", "--quiet", "--filter", label).split()
        if found:
            docker(kind, "rm", *found)
    shutil.rmtree(run.home, ignore_errors=True)
    stop_daemon()
