"""The command lines, the connection and the messages that both stand-ins share with the tools they stand in for."""

import datetime
import json
import os
import re
import sys
import urllib.parse

import pymongo

TOOL_VERSION = "100.18.0-orkvault-test-stand-in"
CONNECT_LIMIT_MILLIS = 30_000
SHORT = {"-h": "--host", "-u": "--username", "-p": "--password", "-d": "--db", "-c": "--collection", "-v": "--verbose"}
CONNECTION = ("--host", "--port", "--uri", "--username", "--password", "--authenticationDatabase", "--authenticationMechanism",
              "--config", "--db", "--collection")
CONFIG_KEYS = ("password", "uri", "sslPEMKeyPassword", "destinationPassword")


class Failed(Exception):
    """Ends the tool with exit code 1; the message is the whole line."""


class Usage(Exception):
    """A command line that is not understood."""


def log(message, quiet=False):
    if not quiet:
        now = datetime.datetime.now(datetime.timezone.utc)
        sys.stderr.write(f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}+0000\t{message}\n")
        sys.stderr.flush()


def counted(number, noun="document"):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def parse(arguments, valued, flags, not_supported=()):
    """Returns the options as a dict: lists for repeated ones, True for flags. `--archive` may stand alone or have a value."""
    found, words = {}, list(arguments)
    while words:
        word = words.pop(0)
        if re.fullmatch("-v+", word):
            continue
        name, equals, value = word.partition("=")
        if re.fullmatch("-[a-z].*", word):
            name, equals, value = SHORT.get(word[:2], word[:2]), word[2:], word[2:].removeprefix("=")
        if not name.startswith("-"):
            positional(found, word)
        elif name in not_supported:
            raise Failed(f"Failed: this stand-in does not know {name}: use the real tool")
        elif name in flags:
            found[name] = True
        elif name == "--archive":
            found[name] = value if equals else "-"
        elif name in valued:
            if not equals:
                if not words:
                    raise Usage(f"expected argument for flag `{name}`")
                value = words.pop(0)
            found.setdefault(name, []).append(value)
        else:
            raise Usage(f"unknown option `{name.lstrip('-')}`")
    return found


def positional(found, word):
    if not word.startswith(("mongodb://", "mongodb+srv://")) or "--uri" in found:
        raise Usage("error parsing positional arguments: provide only one polling interval in seconds and only one MongoDB "
                    "connection string. Connection strings must begin with mongodb:// or mongodb+srv:// schemes")
    found["--uri"] = [word]


def one(options, name, default=None):
    return options.get(name, [default])[-1]


def number(options, name, default):
    value = one(options, name, str(default))
    if not re.fullmatch("-?[0-9]+", value):
        raise Usage(f"invalid argument for flag `{name}' (expected int): parsing \"{value}\": invalid syntax")
    return int(value)


def version(tool):
    print(f"{tool} version: {TOOL_VERSION}\nThis is a stand-in of orkvault's tests, not MongoDB's {tool}.")


def read_config(path):
    """Returns the keys of a configuration file: YAML, of which only `key: scalar` lines are known here."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise Usage(f"error opening file with --config: open {path}: {os.strerror(error.errno).lower()}") from error
    found = {}
    for place, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"\w+", key):
            raise Usage(f"error parsing config file {path}: yaml: line {place}: could not find expected ':'")
        if key not in CONFIG_KEYS:
            raise Usage(f"error parsing config file {path}: yaml: unmarshal errors:\n  line {place}: field {key} not found in type struct")
        found[key] = scalar(value.strip(), path, place)
    return found


def scalar(value, path, place):
    """Returns a YAML scalar's text. What would be anything but text is refused, as YAML would not take it as it stands."""
    if value[:1] == "'" and re.fullmatch(r"'(?:[^']|'')*'", value):
        return value[1:-1].replace("''", "'")
    if value[:1] == '"':
        try:
            return json.loads(value)
        except ValueError as error:
            raise Usage(f"error parsing config file {path}: yaml: line {place}: {error}") from error
    if re.match(r"[\[\]{}&*!|>%@`'\"]", value) or " #" in value or ": " in value:
        raise Usage(f"error parsing config file {path}: yaml: line {place}: did not find expected node content")
    return value


def read_password(quiet):
    """Reads one line byte by byte: an archive may follow on the same stream."""
    log("reading password from standard input", quiet)
    sys.stderr.write("Enter password for mongo user:\n")
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def connect(options):
    """Returns a connected client, and the address for messages (without what stands before an @)."""
    config = read_config(one(options, "--config")) if "--config" in options else {}
    uri, username = one(options, "--uri") or config.get("uri"), one(options, "--username")
    password = one(options, "--password") or config.get("password")
    arguments = {"serverSelectionTimeoutMS": CONNECT_LIMIT_MILLIS, "directConnection": True}
    if uri:
        if "--host" in options or "--port" in options:
            raise Usage("illegal argument combination: cannot specify --host or --port and --uri")
        name = urllib.parse.urlsplit(uri).path.lstrip("/")
        if name and "--db" not in options:
            options["--db"] = [name]
    else:
        host, port = one(options, "--host", "localhost"), one(options, "--port")
        host = host.rpartition("/")[2].split(",")[0]
        uri = f"mongodb://{host if ':' in host or not port else f'{host}:{port}'}/"
    shown = re.sub("//.*@", "//", uri)
    if username:
        if password is None:
            password = read_password("--quiet" in options)
        arguments |= {"username": username, "password": password, "authSource": one(options, "--authenticationDatabase", "admin")}
    elif password is not None and "@" in uri:
        arguments["password"] = password
    if "serverSelectionTimeoutMS=" in uri:
        del arguments["serverSelectionTimeoutMS"]
    try:
        client = pymongo.MongoClient(uri, **arguments)
        client.admin.command("ping" if not username else "hello")
        if username or "@" in uri:
            # The driver authenticates with the first command that needs a connection of its own.
            client.admin.command("ping")
    except pymongo.errors.OperationFailure as error:
        if error.code != 18:
            return client, shown
        raise ConnectionError(f'failed to connect to {shown}: connection() error occurred during connection handshake: auth error: '
                              f'unable to authenticate using mechanism "SCRAM-SHA-256": (AuthenticationFailed) {error.details["errmsg"]}') from error
    except (pymongo.errors.PyMongoError, ValueError) as error:
        raise ConnectionError(f"failed to connect to {shown}: server selection error: context deadline exceeded, "
                              f"current topology: {{ {str(error).split(', Timeout')[0]} }}") from error
    return client, shown


def run(tool, body, arguments):
    """Runs a tool and returns its exit code: 0 or 1, as theirs."""
    try:
        if "--version" in arguments:
            version(tool)
            return 0
        return body(arguments)
    except Usage as error:
        log(f"error parsing command line options: {error}")
        log(f"try '{tool} --help' for more information")
    except Failed as error:
        if str(error):
            log(error)
    return 1
