"""Images without a registry: a tar of host programs and the libraries they load, imported.

An image is tagged with a hash of what went in, so it is made once and found again.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile

from .docker import docker, locked
from .layout import CACHE, MINIO_VERSION, ROOT, StackError

SHELL = ("sh", "cat", "ls", "id", "env", "stat", "head", "tail", "wc", "sleep", "kill", "mkdir", "rm", "mv", "cp",
         "chmod", "chown", "touch", "sha256sum", "true", "false", "dd", "tr", "date", "sync", "printf", "echo", "ps")
IMAGE_DIR = ROOT / "tests" / "stack" / "image"
STAND_INS = ROOT / "tests" / "stack" / "mongotools"
TOOLS = ("mongodump", "mongorestore")
# Never run by a server: tests, editors, packages of the host's side. The compiled modules do come along: without them
# every start compiles a thousand files.
NOT_COPIED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3",
              "site-packages", "dist-packages", "pip", "setuptools", "boto3", "botocore", "s3transfer"}
RECIPE = 5


def find_tools():
    """Returns ("real", directory) or ("stand-in", "")."""
    named = os.environ.get("ORKVAULT_MONGO_TOOLS")
    if named:
        lacking = [tool for tool in TOOLS if not os.access(pathlib.Path(named) / tool, os.X_OK)]
        if lacking:
            raise StackError(f"ORKVAULT_MONGO_TOOLS={named} has no {' and no '.join(lacking)}")
        return "real", str(pathlib.Path(named).resolve())
    found = [shutil.which(tool) for tool in TOOLS]
    if all(found) and len({os.path.dirname(path) for path in found}) == 1:
        return "real", os.path.dirname(found[0])
    return "stand-in", ""


def ensure(service, tools_dir):
    """Returns the image of a service, made if it is not there."""
    inputs, gather, config = {
        "mongodb": lambda: mongodb(tools_dir), "redis": redis, "rustfs": rustfs,
    }[service]()
    digest = hashlib.sha256(repr((RECIPE, service, config, SHELL)).encode())
    for path in sorted(inputs):
        digest.update(str(path).encode() + b"\0" + fingerprint(path))
    tag = f"orkvault-test-{service}:{digest.hexdigest()[:16]}"
    with locked(f"image-{service}"):
        if docker("images", "--quiet", tag):
            return tag
        archive = CACHE / "images" / (tag.replace(":", "-") + ".tar")
        if not archive.exists():
            make_archive(gather, archive)
            for old in archive.parent.glob(f"orkvault-test-{service}-*.tar"):
                if old != archive:
                    old.unlink()
        changes = [word for line in config for word in ("--change", line)]
        docker("import", *changes, str(archive), tag)
    return tag


def fingerprint(path):
    """Returns the hash of a file, or a directory's names, sizes and times."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).digest()
    digest = hashlib.sha256()
    for child in sorted(path.iterdir()):
        stat = child.stat()
        digest.update(f"{child.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.digest()


def make_archive(gather, archive):
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        tree = Tree(pathlib.Path(temporary) / "root")
        gather(tree)
        unfinished = pathlib.Path(temporary) / "image.tar"
        with tarfile.open(unfinished, "w") as tar:
            tar.add(tree.root, arcname=".", filter=owned_by_root)
        unfinished.replace(archive)


def owned_by_root(member):
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


class Tree:
    """The root of an image in the making."""

    def __init__(self, root):
        self.root = root
        for name in ("bin", "usr/bin", "etc", "data", "lib64"):
            (root / name).mkdir(parents=True)
        (root / "tmp").mkdir(mode=0o1777)
        (root / "tmp").chmod(0o1777)
        (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nredis:x:999:999::/data:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\nredis:x:999:\n")

    def shell(self):
        for name in SHELL:
            # which, not the shell's own lookup: many of these are builtins too.
            path = shutil.which(name)
            if path:
                self.program(path)
        (self.root / "bin/sh").symlink_to("/usr/bin/sh")

    def program(self, path, name=None):
        target = self.root / "usr/bin" / (name or os.path.basename(path))
        shutil.copy2(os.path.realpath(path), target)
        self.libraries(path)

    def file(self, source, target, mode=0o644):
        target = self.root / target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(mode)

    def libraries(self, *paths):
        """Copies what the dynamic linker would load, at the paths where it looks for them."""
        listed = subprocess.run(["ldd", *map(str, paths)], capture_output=True, text=True).stdout
        for library in set(re.findall(r"(?:=>\s+|^\s+)(/\S+) \(0x", listed, re.M)):
            if str(CACHE) in os.path.realpath(library) or "site-packages" in library:
                continue  # bundled with its package, found beside it
            name = os.path.basename(library)
            where = "lib64" if name.startswith("ld-") else "lib/x86_64-linux-gnu"
            if os.uname().machine != "x86_64":
                where = os.path.dirname(library).lstrip("/")
            target = self.root / where / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(os.path.realpath(library), target)


def redis():
    programs = [shutil.which(name) for name in ("redis-server", "redis-cli", "redis-check-rdb", "redis-check-aof")]

    def gather(tree):
        tree.shell()
        for path in programs:
            if path:
                tree.program(path)

    inputs = {pathlib.Path(os.path.realpath(path)) for path in programs if path}
    return inputs, gather, ["ENV PATH=/usr/bin", "WORKDIR /data", 'CMD ["redis-server"]']


def rustfs():
    binary = CACHE / "minio" / MINIO_VERSION / "minio"
    if not binary.exists():
        raise StackError("MinIO is not built: run `scripts/setup minio`")

    def gather(tree):
        tree.program(binary, "rustfs")

    return {binary}, gather, ["ENV PATH=/usr/bin", 'ENTRYPOINT ["rustfs"]']


def mongodb(tools_dir):
    packages = pathlib.Path(sysconfig.get_path("purelib"))
    standard = pathlib.Path(sysconfig.get_path("stdlib"))
    interpreter = pathlib.Path(os.path.realpath(sys.executable))
    tools = [pathlib.Path(tools_dir) / tool for tool in TOOLS] if tools_dir else []
    scripts = sorted(IMAGE_DIR.iterdir())
    stand_ins = sorted(path for path in STAND_INS.glob("*.py") if not path.name.startswith("test_"))

    def gather(tree):
        tree.shell()
        tree.program(interpreter, "python3")
        copy_packages(standard, tree.root / "usr/lib" / standard.name)
        copy_packages(packages, tree.root / "opt/site")
        tree.libraries(*standard.rglob("*.so"), *packages.rglob("*.so*"))
        for path in scripts:
            tree.file(path, f"usr/bin/{path.name}", 0o755)
        for path in tools:
            tree.program(path)
        if not tools:
            for path in stand_ins:
                tree.file(path, f"opt/mongotools/{path.name}")
            for tool in TOOLS:
                wrapper = tree.root / "usr/bin" / tool
                wrapper.write_text(f'#!/bin/sh\nexec python3 /opt/mongotools/{tool}.py "$@"\n')
                wrapper.chmod(0o755)
        (tree.root / "data/db").mkdir()

    inputs = {interpreter, packages, *tools, *scripts, *(stand_ins if not tools else [])}
    config = ["ENV PATH=/usr/bin", "ENV PYTHONHOME=/usr", "ENV PYTHONPATH=/opt/site", "ENV PYTHONDONTWRITEBYTECODE=1",
              "ENV LANG=C.UTF-8", 'ENTRYPOINT ["mongodb-entrypoint"]']
    return inputs, gather, config


def copy_packages(source, target):
    def ignored(_, names):
        return [name for name in names if name in NOT_COPIED or name.endswith((".a", ".pyi", ".h"))
                or name.startswith("config-")]

    shutil.copytree(source, target, ignore=ignored, symlinks=False, ignore_dangling_symlinks=True)


def host_tools(tools_dir):
    """Returns a directory with mongodump and mongorestore for the host: the real ones, or ours with their interpreter."""
    if tools_dir:
        return pathlib.Path(tools_dir)
    directory = CACHE / "mongotools"
    directory.mkdir(parents=True, exist_ok=True)
    for tool in TOOLS:
        wrapper = directory / tool
        unfinished = directory / f".{tool}.{os.getpid()}"
        unfinished.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_INS / tool}.py" "$@"\n')
        unfinished.chmod(0o755)
        unfinished.replace(wrapper)
    return directory
