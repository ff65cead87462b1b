"""Convert a configuration of llama-swap or llmsnap to documents."""

import re
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
    chosen, choice_notes = _choices(reader)
    notes = [*rules.notes, *_top_notes(reader), *choice_notes, *peer_notes, *_preload_notes(common, rules)]
    if reader.problems:
        raise ManifestErrors(sorted(dict.fromkeys(reader.problems), key=lambda it: (it.line or 0, it.column or 0)))
    spec = (rules.spec | chosen) | (
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
        if isinstance(what, list):
            text = f"clients can still send {profile}:MODEL; the models are not loaded together"
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


def _choices(reader: Reader) -> tuple[Json, list[Note]]:
    """Return the virtual models and the profiles of a Workspace, and notes."""
    notes: list[Note] = []
    models: list[Json] = []
    for name in reader.mapping(("selectors",)):
        path = ("selectors", name)
        strategy, targets = reader.text((*path, "strategy")) or "pin", reader.texts((*path, "targets"))
        if strategy not in STRATEGIES or not targets:
            reader.problem("needs a strategy and targets", path, found=strategy, allowed=", ".join(STRATEGIES))
            continue
        limit = reader.get((*path, "settings", "spillover"))
        members: list[Json] = [{"model": target} for target in (targets[:1] if strategy == "pin" else targets)]
        if strategy == "spillover" and isinstance(limit, int):
            members = [*({**member, "maxRequests": limit} for member in members[:-1]), members[-1]]
        if strategy == "failover":
            text = (
                f"the first of {', '.join(targets)} gets the requests; set fallback of its Model, with when: [Failed]"
            )
            notes.append(Note("changed", f"selectors.{name}", text))
        lost = sorted(reader.mapping((*path, "settings")).keys() - {"spillover"})
        if lost:
            notes.append(Note("no equivalent", f"selectors.{name}.settings", f"{', '.join(lost)}: left out"))
        models.append({"name": name, "strategy": STRATEGIES[strategy], "members": members})
    profiles: Json = {}
    for profile, what in reader.mapping(("profiles",)).items():
        if isinstance(what, dict):
            pins = ("profiles", profile, "pins")
            profiles[profile] = {name: reader.text((*pins, name)) for name in reader.names(pins)}
    spec: Json = {
        "virtualModels": models,
        "profiles": profiles,
        "activeProfile": reader.text(("hooks", "on_startup", "profile")),
    }
    if paths := reader.texts(("upstream", "ignorePaths")):
        patterns = [pattern for path in paths for pattern in shell_patterns(path)]
        spec["upstream"] = {"noLoadPaths": patterns} if patterns else {}
        lost = [path for path in paths if not shell_patterns(path)]
        text = f"{', '.join(lost)}: write them as shell patterns into upstream.noLoadPaths"
        notes += [Note("no equivalent", "upstream.ignorePaths", text)] if lost else []
    notes += [
        Note("no equivalent", f"upstream.{key}", reader.unknown(("upstream", key), ("ignorePaths",)))
        for key in reader.mapping(("upstream",))
        if key != "ignorePaths"
    ]
    return {key: value for key, value in spec.items() if value}, notes


def shell_patterns(regex: str) -> list[str]:
    r"""Return shell patterns for a regular expression of paths such as `.*\.(js|css)$` or `^/metrics$`. Empty: it is of another kind."""
    match = re.fullmatch(
        r"(?P<any>(?:\^?\.\*)?)(?P<start>\^?)(?P<text>(?:[\w/-]|\\\.)*)(?:\((?P<ends>[\w|]+)\))?(?P<rest>\$|\.\*\$?|)",
        regex,
    )
    if match is None or not (match["text"] or match["ends"]):
        return []
    before = "" if match["start"] else "*"
    after = "" if match["rest"] == "$" else "*"
    return [f"{before}{match['text'].replace(chr(92), '')}{end}{after}" for end in (match["ends"] or "").split("|")]


STRATEGIES = {"pin": "Warm", "warm": "Warm", "spillover": "Spillover", "failover": "Spillover"}


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
    known = {("hooks",): ("on_startup",), ("hooks", "on_startup"): ("preload", "profile")}
    lost = [((*path, key), keys) for path, keys in known.items() for key in reader.mapping(path) if key not in keys]
    return [Note("no equivalent", ".".join(path), reader.unknown(path, keys)) for path, keys in lost]


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
