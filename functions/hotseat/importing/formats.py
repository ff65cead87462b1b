"""The formats that can be imported, and how each is recognised by its content."""

from collections.abc import Callable, Mapping

from hotseat.importing import compose, kaos, litellm, llamaswap, ollama, snipsnap, vllm_chill
from hotseat.importing.objects import read_objects
from hotseat.importing.writer import Imported
from hotseat.manifests.problems import ManifestErrors, Problem

Convert = Callable[[str, str, Mapping[str, str]], Imported]
KUBERNETES = {"snipsnap": snipsnap, "vllm-chill": vllm_chill, "kaos": kaos}

FORMATS: Mapping[str, Convert] = {
    "llama-swap": llamaswap.convert,
    "llmsnap": llamaswap.convert,
    "snipsnap": snipsnap.convert,
    "vllm-chill": vllm_chill.convert,
    "kaos": kaos.convert,
    "litellm": litellm.convert,
    "ollama": ollama.convert,
    "compose": compose.convert,
}


def convert(content: str, file: str, environ: Mapping[str, str], *, source: str | None = None) -> Imported:
    """Return the documents for a file of another program. Raise ManifestErrors if it would not accept the file.

    SOURCE is the name of its format. None: the format is told by the content.
    """
    found = source or recognise(content, file)
    return FORMATS[found](content, file, environ)


def recognise(content: str, file: str) -> str:
    """Return the name of the format of a file. A file that is none of them is taken for llama-swap's, whose errors say so."""
    if ollama.recognise(content):
        return "ollama"
    objects = read_objects(content, file)
    for name, module in KUBERNETES.items():
        if module.recognise(objects):
            return name
    if len(objects) == 1:
        first = objects[0]
        for name, key, kind in (
            ("llama-swap", "models", dict),
            ("litellm", "model_list", list),
            ("compose", "services", dict),
        ):
            if isinstance(first.get(key), kind):
                return name
    if any(each.group == "hotseat.dev" for each in objects):
        raise ManifestErrors([Problem(file, "has documents of hotseat already, which hotseat up serves as they are")])
    return "llama-swap"
