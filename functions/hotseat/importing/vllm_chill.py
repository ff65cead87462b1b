"""VLLMModel of vllm-chill as documents, with the defaults of its CRD."""

from collections.abc import Mapping, Sequence
from typing import Any

from hotseat.api.units import Unreadable, parse_duration
from hotseat.api.vllm import Dtype, ReasoningParser, ToolCallParser
from hotseat.importing.models import labels
from hotseat.importing.objects import KubeObject, others, raise_problems, read_objects
from hotseat.importing.writer import Draft, Imported, Note, documents, model_draft

# What the CRD sets where a VLLMModel sets nothing, and vLLM itself would do otherwise.
DEFAULTS: Mapping[str, Any] = {
    "maxModelLen": 32768, "gpuMemoryUtilization": 0.9, "enableChunkedPrefill": True, "maxNumBatchedTokens": 4096,
    "maxNumSeqs": 16, "enablePrefixCaching": True, "enableAutoToolChoice": True,
}  # fmt: skip
ENUMS = {"toolCallParser": ToolCallParser, "reasoningParser": ReasoningParser, "dtype": Dtype}
SETTINGS = (*DEFAULTS, *ENUMS, "tensorParallelSize", "disableCustomAllReduce", "cpuOffloadGB")
KNOWN = ("modelName", "servedModelName", "chatTemplate", *SETTINGS)


def recognise(objects: Sequence[KubeObject]) -> bool:
    """Whether a file has objects of vllm-chill."""
    return any(each.kind == "VLLMModel" for each in objects)


def convert(content: str, file: str, environ: Mapping[str, str]) -> Imported:  # noqa: ARG001 - as all importers
    """Return the documents for VLLMModels. Raise ManifestErrors for what vllm-chill would not accept."""
    objects = read_objects(content, file)
    models = [each for each in objects if each.kind == "VLLMModel"]
    proxies = [each for each in objects if each.kind == "Deployment" and "IDLE_TIMEOUT" in _variables(each)]
    given = {name: value for each in proxies for name, value in _variables(each).items()}
    given |= {
        name: str(value)
        for each in objects
        if each.kind == "ConfigMap"
        for name, value in each.reader.mapping(each.at("data")).items()
    }
    idle, notes = _idle_timeout(given)
    names = labels(each.name for each in models)
    drafts = [_draft(each, names[each.name], idle, given) for each in models]
    gpus = max([1, *(int(draft.document["spec"]["resources"]["gpus"]) for draft in drafts)])
    spec: dict[str, Any] = {"capacity": {"gpus": gpus}}
    first = given.get("MODEL_ID", "")
    if first in names:
        spec["defaultModel"] = names[first]
        notes.append(Note("changed", "MODEL_ID", "it becomes defaultModel"))
    notes += [
        Note("assumed", "capacity", f"all Models share {gpus} GPU(s), as in vllm-chill one model is loaded at a time")
    ]
    if "VLLM_API_KEY" in given:
        notes.append(
            Note(
                "changed",
                "VLLM_API_KEY",
                "keys of clients are for hotseat: hotseat up --api-key-file FILE, or a Secret on a cluster",
            )
        )
    notes += others(objects, [*models, *proxies])
    raise_problems(objects)
    return documents(file, drafts, spec, notes)


def _variables(obj: KubeObject) -> dict[str, str]:
    containers = ("spec", "template", "spec", "containers")
    found: dict[str, str] = {}
    for index, _ in enumerate(obj.reader.items(obj.at(*containers))):
        for number, _ in enumerate(obj.reader.items(obj.at(*containers, index, "env"))):
            path = (*containers, index, "env", number)
            found[obj.text(*path, "name")] = obj.text(*path, "value")
    return found


def _idle_timeout(given: Mapping[str, str]) -> tuple[str, list[Note]]:
    stated = given.get("IDLE_TIMEOUT")
    try:
        parse_duration(stated or "5m")
    except Unreadable:
        return "5m", [Note("no equivalent", "IDLE_TIMEOUT", f"{stated} is not a duration; 5m is used")]
    if stated:
        return stated, [Note("changed", "IDLE_TIMEOUT", "it becomes lifecycle.idleTimeout of each Model")]
    return "5m", [
        Note("assumed", "IDLE_TIMEOUT", "5m, the default of vllm-chill, is lifecycle.idleTimeout of each Model")
    ]


def _draft(obj: KubeObject, name: str, idle: str, given: Mapping[str, str]) -> Draft:
    notes = list(obj.unknown(("spec",), KNOWN))
    repository, served = obj.text("spec", "modelName"), obj.text("spec", "servedModelName")
    if not repository:
        obj.reader.problem("is missing", obj.at("spec", "modelName"))
    stated = {key: value for key, value in obj.reader.mapping(obj.at("spec")).items() if key in SETTINGS}
    defaults = {key: value for key, value in DEFAULTS.items() if key not in stated}
    if defaults:
        notes.append(Note("assumed", ", ".join(defaults), "not stated, so that the defaults of vllm-chill's CRD apply"))
    settings = {**defaults, **stated}
    args: list[str] = []
    for key, allowed in ENUMS.items():
        if settings.get(key) not in (None, *allowed):
            flag = {
                "toolCallParser": "--tool-call-parser",
                "reasoningParser": "--reasoning-parser",
                "dtype": "--dtype",
            }[key]
            args += [flag, str(settings.pop(key))]
            notes.append(Note("changed", key, f"{args[-1]} goes into args, as vllm.{key} does not have it"))
    if not settings.get("toolCallParser") and settings.pop("enableAutoToolChoice", False):
        if "--tool-call-parser" in args:
            args.append("--enable-auto-tool-choice")
        else:
            notes.append(Note("changed", "enableAutoToolChoice", "left out, as vLLM needs a toolCallParser for it"))
    for key in [key for key in ("toolCallParser", "reasoningParser") if settings.get(key) == ""]:
        del settings[key]
    if template := obj.text("spec", "chatTemplate"):
        args += ["--chat-template", template]
    gpus = obj.reader.number(obj.at("spec", "tensorParallelSize")) or int(
        count if (count := given.get("GPU_COUNT", "1")).isdigit() and int(count) else 1
    )
    spec: dict[str, Any] = {
        "engine": "vllm",
        "source": repository if repository.startswith(("/", ".")) else f"hf://{repository}",
        "names": [] if served in ("", name) else [served],
        "engineModelName": "" if served == name else served,
        "args": args,
        "vllm": settings,
        "resources": {"gpus": gpus},
        "lifecycle": {"idleTimeout": idle, "startTimeout": "15m"},
    }
    notes.append(Note("assumed", "startTimeout", "15m to load, as vllm-chill has no limit"))
    return model_draft(name, spec, obj.origin, notes)
