"""Model and Workspace of snipsnap as documents."""

from collections.abc import Mapping, Sequence

from hotseat.api.types import API_VERSION, Json
from hotseat.importing.models import labels
from hotseat.importing.objects import KubeObject, environment, others, raise_problems, read_objects, resources
from hotseat.importing.writer import Draft, Imported, Note, documents, model_draft

KNOWN = ("url", "engine", "cache", "image", "args", "env", "resources")
ENGINES = {"ollama": "llamacpp", "vllm": "vllm"}


def recognise(objects: Sequence[KubeObject]) -> bool:
    """Whether a file has objects of snipsnap."""
    return any(_is_model(each) or _is_workspace(each) for each in objects)


def _is_model(obj: KubeObject) -> bool:
    ours = obj.group == API_VERSION.partition("/")[0]
    return (
        obj.kind == "Model"
        and not ours
        and obj.get("spec", "url") is not None
        and "engine" in obj.reader.mapping(obj.at("spec"))
    )


def _is_workspace(obj: KubeObject) -> bool:
    return obj.kind == "Workspace" and obj.get("spec", "activeModel") is not None


def convert(content: str, file: str, environ: Mapping[str, str]) -> Imported:  # noqa: ARG001 - as all importers
    """Return the documents for a file of snipsnap. Raise ManifestErrors for what it would not accept."""
    objects = read_objects(content, file)
    models = [each for each in objects if _is_model(each)]
    spaces = [each for each in objects if _is_workspace(each)]
    names = labels(each.name for each in models)
    drafts = [_draft(each, names[each.name]) for each in models]
    notes = others(objects, [*models, *spaces])
    spec: Json = {"capacity": {"gpus": max([1, *(_gpus(each) for each in drafts)])}}
    notes.append(
        Note(
            "assumed",
            "capacity",
            f"all Models share {spec['capacity']['gpus']} GPU(s), as in snipsnap one model is loaded at a time",
        )
    )
    for space in spaces[:1]:
        active = space.text("spec", "activeModel")
        notes += space.unknown(("spec",), ("activeModel",))
        if active in names:
            spec["activeModel"] = names[active]
        else:
            notes.append(Note("no equivalent", "activeModel", f"{active} is not in this file"))
    if spaces[1:]:
        lost = ", ".join(each.name for each in spaces[1:])
        notes.append(
            Note(
                "no equivalent",
                "Workspace",
                f"{lost}: snipsnap does not say which Models are for which Workspace; all are in the first",
            )
        )
    raise_problems(objects)
    name = labels([spaces[0].name])[spaces[0].name] if spaces else "default"
    return documents(file, drafts, spec, notes, name=name)


def _gpus(draft: Draft) -> int:
    return int(draft.document["spec"].get("resources", {}).get("gpus", 1))


def _draft(obj: KubeObject, name: str) -> Draft:
    stated, url = obj.text("spec", "engine"), obj.text("spec", "url")
    notes = list(obj.unknown(("spec",), KNOWN))
    engine = ENGINES.get(stated.lower(), "")
    if not engine:
        obj.reader.problem(
            "is not an engine of snipsnap", obj.at("spec", "engine"), found=stated, allowed="OLlama, VLLM"
        )
    source, _, query = url.partition("?")
    if query:
        notes.append(Note("no equivalent", "url", f"?{query} is left out"))
    args = obj.reader.texts(obj.at("spec", "args"))
    image = obj.text("spec", "image")
    if engine == "llamacpp":
        notes.append(Note("changed", "engine", "Ollama runs its models by llama.cpp; here llama-server does"))
        if args or image:
            notes.append(
                Note(
                    "no equivalent",
                    "args, image",
                    f"{' '.join([*args, image]).strip()}: they are for Ollama, and left out",
                )
            )
        args, image = [], ""
    variables, more = environment(obj, ("spec", "env"))
    claimed, most = resources(obj, ("spec", "resources"))
    cache, last = _cache(obj)
    spec: Json = {
        "engine": engine,
        "source": source,
        "image": image,
        "args": args,
        **variables,
        **claimed,
        "cache": cache,
    }
    if obj.name != name:
        spec["names"] = [obj.name]
    return model_draft(name, spec, obj.origin, [*notes, *more, *most, *last])


def _cache(obj: KubeObject) -> tuple[Json, list[Note]]:
    path = ("spec", "cache")
    fields = {"storageSize": "size", "storageClassName": "storageClass", "existingPVCName": "existingClaim"}
    notes = list(obj.unknown(path, ("enabled", *fields)))
    if not obj.reader.flag(obj.at(*path, "enabled"), default=False):
        return {}, notes
    claim = obj.text(*path, "existingPVCName")
    cache = {ours: value for theirs, ours in fields.items() if (value := obj.text(*path, theirs))}
    if claim:
        return {"existingClaim": claim}, notes
    return {"size": "50Gi", **cache}, notes
