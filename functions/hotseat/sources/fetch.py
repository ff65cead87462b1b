"""The child process that fetches one source: `python -m hotseat.sources.fetch SOURCE --cache DIR`.

As a separate process it can be killed at any time. Its last line is {"path": …} with exit status 0,
or {"error": …, "retryable": …} with exit status 1 (a retry may help) or 2 (it will not).
"""

import argparse
import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from hotseat.sources.base import FILES, SourceError, cached, complete, redacted, split
from hotseat.sources.cache import fetch_lock
from hotseat.sources.download import Progress

RETRYABLE, FATAL = 1, 2  # exit status
# Modules and functions by scheme. The module is imported by the process that fetches: some stand on large libraries.
FETCHERS = {
    "hf": ("hf", "fetch"),
    "https": ("https", "fetch"),
    "http": ("https", "fetch"),
    "ollama": ("registries", "fetch_ollama"),
    "oci": ("registries", "fetch_oci"),
    **dict.fromkeys(("s3", "gs", "az"), ("object_stores", "fetch")),
}


def fetch(source: str, cache_dir: Path, progress: Progress) -> Path:
    """Fetch a source into the cache and return its path. Wait if another process fetches the same source."""
    path = cached(source, cache_dir)
    if path is not None:
        return path
    with fetch_lock(source, cache_dir) as folder:
        path = cached(source, cache_dir)
        if path is None:
            module, function = FETCHERS[split(source)[0]]
            fetcher = getattr(import_module(f"hotseat.sources.{module}"), function)
            path = fetcher(source, folder / FILES, progress)
            complete(source, cache_dir, path)
    return path


def main(argv: list[str]) -> int:
    """Fetch the source of the arguments, and return the exit status."""
    parser = argparse.ArgumentParser(prog="hotseat.sources.fetch", description="Fetch weights into a cache folder.")
    parser.add_argument("source")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--termination-log", type=Path, help="File that gets the last line too (cluster).")
    options = parser.parse_args(argv)
    progress = Progress(sys.stdout)
    result, code = _run(options.source, options.cache, progress)
    try:
        progress.write(result)
    except BrokenPipeError:  # hotseat was killed; the next one resumes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if options.termination_log:
        options.termination_log.write_text(json.dumps(result))
    return code


def _run(source: str, cache_dir: Path, progress: Progress) -> tuple[dict[str, Any], int]:
    """Fetch a source, and return the result and the exit status."""
    try:
        return {"path": str(fetch(source, cache_dir, progress))}, 0
    except SourceError as error:
        return {"error": str(error), "retryable": error.retryable}, RETRYABLE if error.retryable else FATAL
    except OSError as error:  # the disk is full, or the cache is not writable
        problem = f"{error.filename or cache_dir}: {error.strerror or error}"
        return {"error": problem, "retryable": False}, FATAL
    except Exception as error:  # a bug; its message may have keys
        traceback.print_tb(error.__traceback__)
        return {"error": f"{redacted(source)} cannot be fetched: {type(error).__name__}", "retryable": False}, FATAL


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
