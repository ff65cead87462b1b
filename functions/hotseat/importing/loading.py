"""`load`: documents, configurations of llama-swap as they are, and folders of models, as one Manifest."""

import os
import re
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hotseat.importing import models_dir
from hotseat.importing.llamaswap import convert_texts
from hotseat.importing.reader import TOP_KEYS, TOP_LOST
from hotseat.manifests import files
from hotseat.manifests.checks import Plugins
from hotseat.manifests.files import STDIN, Text
from hotseat.manifests.loading import Manifest, load_texts
from hotseat.manifests.nodes import Tree, parse

_DOCUMENT = re.compile(r"""^\s*["']?apiVersion["']?\s*:""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What to serve: files, or folders of files, and folders of GGUF files."""

    files: tuple[Path, ...] = ()
    models_dirs: tuple[Path, ...] = ()

    @property
    def can_reload(self) -> bool:
        """Whether they can be read again. The standard input cannot."""
        return STDIN not in self.files and bool(self.files or self.models_dirs)


def load(inputs: Inputs, plugins: Plugins | None = None, known: Manifest | None = None) -> Manifest:
    """Read everything. Raise ManifestErrors with all problems. Documents take precedence over models that are found.

    Return `known` if nothing has changed since it was read.
    """
    texts = tuple(files.read(inputs.files))
    found, unfinished = models_dir.read(inputs.models_dirs, time.time())
    if known is not None and (*texts, *found) == known.texts:
        return known
    foreign = [text for text in texts if isinstance(text, Text) and is_configuration(text)]
    if not foreign:
        return replace(load_texts(texts, plugins, found=found), notes=tuple(unfinished))
    made = convert_texts(foreign, os.environ)
    names = ", ".join(text.name for text in foreign)
    converted = Text(f"the documents made of {names}", foreign[0].path, foreign[0].folder, made.text)
    rest = (text for text in texts if text not in foreign)
    manifest = load_texts([converted, *rest], plugins, found=found)
    read = tuple(text for text in (*texts, *found) if isinstance(text, Text))
    notes = (*unfinished, *(f"{names}: {name}: {note}" for name, note in made.notes))
    return replace(manifest, texts=read, notes=notes)


def is_configuration(text: Text) -> bool:
    """Whether a text is a configuration of llama-swap or llmsnap, or a part of one."""
    if _DOCUMENT.search(text.content):
        return False
    trees = list(parse(text.content, text.name))
    data = trees[0].data if len(trees) == 1 and isinstance(trees[0], Tree) else None
    return isinstance(data, dict) and "kind" not in data and bool(data.keys() & {*TOP_KEYS, *TOP_LOST})


def snapshot(inputs: Inputs) -> Hashable:
    """Return a value that differs whenever the inputs may have changed."""
    return files.snapshot(inputs.files), models_dir.snapshot(inputs.models_dirs, time.time())


def wait_settled(folders: Sequence[Path], pause: float = 0.1) -> list[Path]:
    """Wait for as long as a file needs to settle. Return the files that are still written."""
    end = time.monotonic() + models_dir.SETTLED + pause
    while (unsettled := models_dir.are_written(folders, time.time())) and time.monotonic() < end:
        time.sleep(pause)
    return unsettled
