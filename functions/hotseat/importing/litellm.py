"""Routes of LiteLLM (`model_list`) as Models of engine external."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hotseat.api.types import Json
from hotseat.importing.external import MOCK_ANSWER, external_draft, key_in, mock_draft
from hotseat.importing.models import free
from hotseat.importing.models import label as label_of
from hotseat.importing.objects import read_objects
from hotseat.importing.reader import Reader
from hotseat.importing.writer import Draft, Imported, Note, documents
from hotseat.manifests.problems import ManifestErrors, Path, Problem

# Base URLs of providers whose API is OpenAI's, where a route states none.
PROVIDERS: Mapping[str, str] = {
    "openai": "https://api.openai.com",
    "anthropic": "https://api.anthropic.com",
    "deepseek": "https://api.deepseek.com",
    "groq": "https://api.groq.com/openai",
    "mistral": "https://api.mistral.ai",
    "nebius": "https://api.studio.nebius.com",
    "openrouter": "https://openrouter.ai/api",
    "together_ai": "https://api.together.xyz",
    "ollama": "http://127.0.0.1:11434",
    "ollama_chat": "http://127.0.0.1:11434",
    "hosted_vllm": "",
    "vllm": "",
    "text-completion-openai": "https://api.openai.com",
    "lm_studio": "",
    "openai_like": "",
    "custom_openai": "",
}
PARAMS = ("model", "api_base", "api_key", "base_url", "mock_response", "timeout", "max_parallel_requests")
WILDCARD = "* in names stands for any text, as in LiteLLM"


@dataclass(slots=True)
class Routes:
    """Models that are made from routes, with unique labels, and notes on those that cannot be."""

    taken: set[str] = field(default_factory=set)
    models: list[Draft] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def add(
        self, name: str, model: str, base: str, origin: str, *, key: Json | None = None, notes: Iterable[Note] = ()
    ) -> None:
        """Add a route: requests for NAME go to MODEL (`provider/model`) at BASE. Without BASE: to its provider."""
        provider, _, rest = model.partition("/")
        known = provider in PROVIDERS
        url = base or PROVIDERS.get(provider, "")
        label = free(label_of(name.replace("*", "any")), self.taken)
        found = list(notes)
        if "*" in name:
            found.append(Note("changed", "model_name", WILDCARD))
        same = [
            draft
            for draft in self.models
            if name in (draft.document["spec"].get("names") or [draft.document["metadata"]["name"]])
        ]
        if not url:
            self.notes.append(
                Note("no equivalent", origin, f"{name}: the address of {provider} is not known; state its api_base")
            )
            return
        inner = rest if known and rest else model
        names = [] if same else [name]
        made = external_draft(label, inner, _root(url), names, origin, found, key=key)
        if isinstance(made, Note):
            self.notes.append(made)
            return
        if same:
            _last(same[0], self.models)["fallback"] = {"model": label, "when": ["Failed"]}
            self.notes.append(
                Note(
                    "changed",
                    name,
                    f"LiteLLM balances between its routes; here {label} answers while the one before it cannot",
                )
            )
        self.taken |= {label, *names}
        self.models.append(made)

    def add_mock(self, name: str, origin: str, notes: Iterable[Note] = (), answer: str = MOCK_ANSWER) -> None:
        """Add a model whose answers are made up."""
        label = free(label_of(name.replace("*", "any")), self.taken)
        self.taken |= {label, name}
        wild = [Note("changed", "model_name", WILDCARD)] if "*" in name else []
        self.models.append(mock_draft(label, name, origin, [*notes, *wild], answer=answer))

    def add_list(self, reader: Reader, path: Path) -> None:
        """Add the routes of a `model_list`."""
        for index, _ in enumerate(reader.items(path)):
            at = (*path, index)
            params = (*at, "litellm_params")
            name, model = reader.text((*at, "model_name")), reader.text((*params, "model"))
            if not name or not model:
                reader.problem("has no model_name, or no litellm_params.model", at)
                continue
            lost = [key for key in reader.mapping(params) if key not in PARAMS]
            notes = [
                Note("no equivalent", f"litellm_params.{key}", f"line {reader.line((*params, key))}: left out")
                for key in lost
            ]
            base = reader.text((*params, "api_base")) or reader.text((*params, "base_url"))
            origin = f"route {name} (line {reader.line(at)})"
            if reader.get((*params, "mock_response")) is not None:
                self.add_mock(name, origin, notes, reader.text((*params, "mock_response")) or MOCK_ANSWER)
                continue
            key, more = key_in(stated, name) if _is_key(stated := reader.text((*params, "api_key"))) else (None, [])
            before = len(self.models)
            self.add(name, model, base, origin, key=key, notes=[*notes, *more])
            for draft in self.models[before:]:
                if seconds := reader.text((*params, "timeout")):
                    draft.document["spec"]["lifecycle"] = {"responseStartTimeout": f"{seconds}s"}
                if limit := reader.number((*params, "max_parallel_requests")):
                    draft.document["spec"]["concurrency"] = limit


def _is_key(stated: str) -> bool:
    """Whether a key is one, and not a word that fills the field."""
    return stated.lower() not in ("", "none", "not-needed", "na", "n/a", "sk-none", "dummy", "anything")


def _root(base: str) -> str:
    """Return the address to which paths such as /v1/chat/completions are appended."""
    return base.rstrip("/").removesuffix("/v1")


def _last(first: Draft, models: Iterable[Draft]) -> Json:
    """Return the spec of the last Model in a chain of fallbacks."""
    by_name = {draft.document["metadata"]["name"]: draft.document["spec"] for draft in models}
    spec: Json = first.document["spec"]
    while "fallback" in spec:
        spec = by_name[spec["fallback"]["model"]]
    return spec


def convert(content: str, file: str, environ: Mapping[str, str]) -> Imported:  # noqa: ARG001 - as all importers
    """Return the documents for a configuration of LiteLLM. Raise ManifestErrors if it is not one."""
    objects = read_objects(content, file)
    if len(objects) != 1:
        raise ManifestErrors([Problem(file, f"has {len(objects)} documents; a configuration is one")])
    (obj,) = objects
    reader = obj.reader
    routes = Routes()
    routes.add_list(reader, ("model_list",))
    notes = [
        Note("no equivalent", key, f"line {reader.line((key,))}: see docs/moving.md for what hotseat has instead")
        for key in reader.mapping(())
        if key != "model_list"
    ]
    if reader.problems:
        raise ManifestErrors(reader.problems)
    return documents(file, routes.models, {"capacity": {"gpus": 1}}, [*notes, *routes.notes])
