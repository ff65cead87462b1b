"""Convert a configuration of llama-swap or llmsnap to documents."""

from collections.abc import Mapping, Sequence

from hotseat.api.types import API_VERSION, Json
from hotseat.api.workspace import DEFAULT_WORKSPACE, Loading
from hotseat.importing.commands import Macros
from hotseat.importing.fragments import merge
from hotseat.importing.groups import ResidencyRules, residency_rules
from hotseat.importing.models import Common, ModelImport, external_models, labels
from hotseat.importing.reader import TOP_KEYS, TOP_LOST, Reader
from hotseat.importing.writer import Draft, Imported, Note, compact, write
from hotseat.manifests.files import Text
from hotseat.manifests.nodes import Tree, parse
from hotseat.manifests.problems import ManifestErrors, Problem


def convert(content: str, file: str, environ: Mapping[str, str]) -> Imported:
    """Return the documents for a configuration. Raise ManifestErrors if llama-swap would not accept it."""
    return _convert(_open(content, file), file, environ)


def convert_texts(texts: Sequence[Text], environ: Mapping[str, str]) -> Imported:
    """Return the documents for a configuration in several files. Raise ManifestErrors if llama-swap would not accept it."""
    parts = [(tree, text.name) for text in texts for tree in _trees(text.content, text.name)]
    merged = merge(parts)
    if not isinstance(merged.tree.data.get("models"), dict):
        allowed = "a configuration of llama-swap or llmsnap, with models"
        raise ManifestErrors(merged.problems or [Problem(texts[0].name, "cannot be imported", allowed=allowed)])
    reader = Reader(merged.tree, texts[0].name, merged.files)
    reader.problems += merged.problems
    return _convert(reader, ", ".join(text.name for text in texts), environ)


def _convert(reader: Reader, file: str, environ: Mapping[str, str]) -> Imported:
    names = labels(reader.mapping(("models",)), _others(reader))
    shared = reader.mapping(("macros",))
    rules = residency_rules(reader, names)
    common = Common(
        labels=names,
        macros=shared,
        environ=environ,
        preload=frozenset(_real(reader, name) for name in reader.texts(("hooks", "on_startup", "preload"))),
        priorities=_priorities(reader),
        more_names=_profile_names(reader),
    )
    models = [ModelImport(reader, name, common).draft() for name in names]
    peers, peer_notes = external_models(reader, [*names.values(), *_others(reader)])
    notes = [*rules.notes, *_top_notes(reader), *peer_notes, *_preload_notes(common, rules)]
    if reader.problems:
        raise ManifestErrors(sorted(dict.fromkeys(reader.problems), key=lambda it: (it.line or 0, it.column or 0)))
    spec = rules.spec | (
        {"loading": Loading.REASONING.value} if reader.flag(("sendLoadingState",), default=False) else {}
    )
    space: Json = {"apiVersion": API_VERSION, "kind": "Workspace", "metadata": {"name": DEFAULT_WORKSPACE}}
    workspace = Draft(
        {**space, "spec": spec}, "Which models can be resident together, and settings for all models", notes
    )
    head = (f"Made by `hotseat import` from {file}.", *HEAD, "")
    return write(head, [workspace, *models, *peers])


HEAD = (
    (
        "Changed settings, and settings without an equivalent, are listed above each document. See "
        "docs/from-llama-swap.md."
    ),
)


def _open(content: str, file: str) -> Reader:
    trees = _trees(content, file)
    if len(trees) != 1:
        raise ManifestErrors([Problem(file, f"has {len(trees)} documents; a configuration is one")])
    (tree,) = trees
    if not isinstance(tree.data, dict) or not isinstance(tree.data.get("models"), dict):
        allowed = "a configuration of llama-swap or llmsnap, with models"
        raise ManifestErrors([Problem(file, "cannot be imported", allowed=allowed)])
    return Reader(tree, file)


def _trees(content: str, file: str) -> list[Tree]:
    trees = list(parse(content, file, yaml_1_2=True))
    if wrong := [tree for tree in trees if isinstance(tree, Problem)]:
        raise ManifestErrors(wrong)
    return [tree for tree in trees if isinstance(tree, Tree)]


def _others(reader: Reader) -> list[str]:
    """Return the other names that clients can send, which labels must not equal."""
    found: list[str] = []
    for model in reader.mapping(("models",)):
        macros = Macros(model, {}, {})
        aliases = reader.items(("models", model, "aliases"))
        found += [str(alias.get("id")) if isinstance(alias, dict) else str(alias) for alias in aliases]
        found += [macros.fill(key) for key in reader.mapping(("models", model, "filters", "setParamsByID"))]
    return found


def _real(reader: Reader, name: str) -> str:
    """Return the model of a name or alias."""
    for model in reader.mapping(("models",)):
        if name.strip() == model or name.strip() in map(str, reader.items(("models", model, "aliases"))):
            return model
    return name


def _priorities(reader: Reader) -> dict[str, int]:
    path = ("routing", "scheduler", "settings", "fifo", "priority")
    return {_real(reader, name): reader.number((*path, name)) or 0 for name in reader.mapping(path)}


def _profile_names(reader: Reader) -> dict[str, list[str]]:
    """Return the names `profile:model` of former versions, by model."""
    found: dict[str, list[str]] = {}
    for profile, members in reader.mapping(("profiles",)).items():
        for member in members if isinstance(members, list) else ():
            found.setdefault(_real(reader, str(member)), []).append(f"{profile}:{member}")
    return found


def _top_notes(reader: Reader) -> list[Note]:
    notes = []
    for key, value in reader.mapping(()).items():
        if key in TOP_LOST:
            notes.append(Note("no equivalent", key, f"{compact(value)}: {TOP_LOST[key]}"))
        elif key not in TOP_KEYS:
            notes.append(Note("no equivalent", key, reader.unknown((key,), (*TOP_KEYS, *TOP_LOST))))
    if keys := reader.items(("apiKeys",)):
        text = f"{len(keys)} keys: put them into a file, one per line, for hotseat up --api-key-file FILE"
        notes.append(Note("changed", "apiKeys", text))
    for profile, what in reader.mapping(("profiles",)).items():
        text = f"clients can still send {profile}:MODEL; the models are not loaded together"
        if isinstance(what, dict):
            text = f"{compact(what.get('pins', {}))}: names cannot be moved to another model for a time; add the name to that Model"
        notes.append(Note("no equivalent", f"profiles.{profile}", text))
    if reader.get(("sleepMode",)) is not None:
        notes.append(
            Note(
                "no equivalent",
                "sleepMode",
                f"{compact(reader.get(('sleepMode',)))}: set lifecycle.release of each Model",
            )
        )
    return notes + _routing_notes(reader) + _hook_notes(reader)


def _routing_notes(reader: Reader) -> list[Note]:
    notes = []
    if reader.get(("routing", "scheduler")) is not None:
        text = "the policy is batch, with bounded waits; with spec.policy.name: fifo the oldest request is always next"
        notes.append(Note("changed", "routing.scheduler", text))
    known = {(): {"scheduler", "router"}, ("scheduler",): {"use", "settings"}, ("router",): {"use", "settings"}}
    known |= {("scheduler", "settings"): {"fifo"}, ("router", "settings"): {"groups", "matrix"}}
    for path, keys in known.items():
        lost = sorted(reader.mapping(("routing", *path)).keys() - keys)
        notes += [
            Note("no equivalent", ".".join(("routing", *path, key)), reader.unknown(("routing", *path, key), keys))
            for key in lost
        ]
    return notes


def _hook_notes(reader: Reader) -> list[Note]:
    known = {("hooks",): "on_startup", ("hooks", "on_startup"): "preload"}
    lost = [((*path, key), only) for path, only in known.items() for key in reader.mapping(path) if key != only]
    return [Note("no equivalent", ".".join(path), reader.unknown(path, (only,))) for path, only in lost]


def _preload_notes(common: Common, rules: ResidencyRules) -> list[Note]:
    """Return notes on preloads that are not models, or cannot be resident together."""
    field = "hooks.on_startup.preload"
    unknown = sorted(common.preload - common.labels.keys())
    notes = [Note("no equivalent", field, f"{name} is not a model") for name in unknown]
    wanted = [common.labels[name] for name in common.labels if name in common.preload]
    clash = [f"{a} and {b}" for i, a in enumerate(wanted) for b in wanted[i + 1 :] if rules.groups.conflict(a, b)]
    if clash:
        text = (
            f"{', '.join(clash)} cannot be resident together: the first one stays loaded; llama-swap loads them in turn"
        )
        notes.append(Note("changed", field, text))
    return notes
