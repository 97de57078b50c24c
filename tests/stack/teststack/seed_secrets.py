"""What changes in docker/.env and docker/keys on a working day; no server's credentials do."""

import os

# A key that the operator throws away, one that is renewed, one whose mode is another afterwards.
DELETED, RENEWED, CLOSED = "apple.p8", "jwt-private.pem", "jwt-public.pem"
CLOSED_MODE = 0o600
ADDED_VARIABLE = "DAYS_WORKED"


def change(run):
    """Adds a variable that nothing reads, rewrites one key, changes one key's mode and deletes one."""
    keys = run.stack_dir / "docker" / "keys"
    with run.env_file.open("a") as file:
        file.write(f"{ADDED_VARIABLE}={run.days}\n")
    # Opened as it is: its mode stays.
    (keys / RENEWED).write_bytes(b"-----BEGIN PRIVATE KEY-----\n" + os.urandom(600).hex().encode() + b"\n-----END PRIVATE KEY-----\n")
    (keys / CLOSED).chmod(CLOSED_MODE)
    (keys / DELETED).unlink(missing_ok=True)
    return "secrets: .env has one line more, one key is another, one has another mode, one is gone"
