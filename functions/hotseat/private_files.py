"""Files and directories that only their owner can read: logs may have prompts, and the cache has URLs with keys.

A file or directory that exists keeps its mode.
"""

import os
from pathlib import Path


def make_directory(path: Path) -> None:
    """Create a directory with mode 0700, and its parents with the default mode, unless it exists."""
    path.mkdir(0o700, parents=True, exist_ok=True)


def opener(path: str, flags: int) -> int:
    """Open a file for `open`. A new file has mode 0600."""
    return os.open(path, flags, 0o600)
