"""Secret values of documents, read from where they are."""

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from hotseat.api.secrets import SecretValue

SECRETS_DIR = "HOTSEAT_SECRETS_DIR"  # variable with the folder below which a cluster mounts Secrets: NAME/KEY
RECHECK = 1.0  # seconds for which the content of a file is used without a look at the file
MAX_FILE = 65536  # bytes


class SecretMissing(ValueError):
    """A secret value cannot be read. The message names the field and what is missing, never the value."""


class SecretReader:
    """Reads one secret value. A file is read again when it has changed. Can be used on any thread.

    `where` names the document and the field for messages: "Model/qwen: spec.engineKey".
    """

    def __init__(self, source: SecretValue, where: str, environ: Mapping[str, str] = os.environ) -> None:
        self._source, self._where, self._environ = source, where, environ
        self._lock = threading.Lock()
        self._state: tuple[int, int, int] | None = None  # of the file, when it was read
        self._value = ""
        self._checked = 0.0

    def read(self) -> str:
        """Return the value. Raise SecretMissing if there is none, or if it cannot stand in a header."""
        source = self._source
        if source.value is not None:
            return self._valid(source.value, "value")
        if source.env is not None:
            given = self._environ.get(source.env)
            if given is None:
                raise SecretMissing(f"{self._where}.env: the environment variable {source.env} is not set")
            return self._valid(given, f"env: the environment variable {source.env}")
        if source.file is not None:
            return self._of_file(Path(source.file), "file")
        assert source.secret is not None  # noqa: S101
        folder = self._environ.get(SECRETS_DIR)
        if not folder:
            raise SecretMissing(
                f"{self._where}.secret: the Secret {source.secret.name} is not mounted here. On one machine use env or file; on a "
                "cluster name the Secret in the value upstreamSecrets of the chart"
            )
        return self._of_file(Path(folder, source.secret.name, source.secret.key), "secret")

    def _of_file(self, path: Path, field: str) -> str:
        with self._lock:
            now = time.monotonic()
            if self._state is not None and now - self._checked < RECHECK:
                return self._value
            try:
                found = path.stat()
                state = (found.st_mtime_ns, found.st_ino, found.st_size)
                if state != self._state:
                    with path.open("rb") as file:
                        text = file.read(MAX_FILE + 1).decode()
                    self._value, self._state = self._valid(text.rstrip("\r\n"), f"{field}: the file {path}"), state
            except (OSError, UnicodeDecodeError) as error:
                self._state = None
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise SecretMissing(f"{self._where}.{field}: cannot read the file {path}: {why}") from None
            self._checked = now
            return self._value

    def _valid(self, value: str, what: str) -> str:
        if not value.strip():
            raise SecretMissing(f"{self._where}.{what} is empty")
        if len(value) > MAX_FILE or not value.isprintable() or not value.isascii():
            raise SecretMissing(f"{self._where}.{what} has characters other than printable ASCII, or is too long")
        return value
