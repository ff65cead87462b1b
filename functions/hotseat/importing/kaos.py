"""ModelAPI of kaos as documents: Proxy (LiteLLM) and Hosted (Ollama)."""

from collections.abc import Mapping, Sequence

from hotseat.api.types import Json
from hotseat.api.units import Unreadable, parse_duration
from hotseat.importing.external import key_in
from hotseat.importing.litellm import Routes
from hotseat.importing.models import labels
from hotseat.importing.objects import KubeObject, environment, others, raise_problems, read_objects, resources
from hotseat.importing.reader import Reader
from hotseat.importing.writer import Draft, Imported, Note, documents, model_draft
from hotseat.manifests.nodes import parse
from hotseat.manifests.problems import ManifestErrors, Path, Problem

SPEC = ("mode", "proxyConfig", "hostedConfig", "serverConfig", "gatewayRoute", "podSpec", "telemetry", "container")
PROXY = ("models", "model", "provider", "apiBase", "apiKey", "configYaml", "env")
HOSTED = ("model", "env", "resources")


def recognise(objects: Sequence[KubeObject]) -> bool:
    """Whether a file has objects of kaos."""
    return any(each.kind == "ModelAPI" for each in objects)


def convert(content: str, file: str, environ: Mapping[str, str]) -> Imported:  # noqa: ARG001 - as all importers
    """Return the documents for ModelAPIs. Raise ManifestErrors for what kaos would not accept."""
    objects = read_objects(content, file)
    apis = [each for each in objects if each.kind == "ModelAPI"]
    hosted = [each for each in apis if each.text("spec", "mode") == "Hosted"]
    names = labels(each.name for each in hosted)
    routes = Routes(taken=set(names.values()))
    models = [_hosted(each, names[each.name], routes) for each in hosted]
    for each in apis:
        if each not in hosted:
            _proxy(each, routes)
        routes.notes += each.unknown(("spec",), SPEC)
    notes = others(objects, apis)
    spec: Json = {"capacity": {"gpus": 1}}
    raise_problems(objects)
    return documents(file, [*models, *routes.models], spec, [*notes, *routes.notes])


def _hosted(obj: KubeObject, name: str, routes: Routes) -> Draft:
    part = "hostedConfig" if obj.get("spec", "hostedConfig") is not None else "serverConfig"
    model = obj.text("spec", part, "model")
    if not model:
        obj.reader.problem("is missing: the model of Ollama", obj.at("spec", part, "model"))
    notes = [
        *obj.unknown(("spec", part), HOSTED),
        Note("changed", "mode", "Ollama runs its models by llama.cpp; here llama-server does"),
    ]
    variables, more = environment(obj, ("spec", part, "env"))
    own = [each["name"] for each in variables["env"] if each["name"].startswith("OLLAMA_")]
    if own:
        notes.append(Note("no equivalent", "env", f"{', '.join(own)}: for Ollama, and left out"))
    variables["env"] = [each for each in variables["env"] if each["name"] not in own]
    claimed, most = resources(obj, ("spec", part, "resources"))
    wanted = [model, f"ollama/{model}"]
    names = [each for each in wanted if each not in routes.taken]
    routes.taken.update(names)
    spec: Json = {"engine": "llamacpp", "source": f"ollama://{model}", "names": names, **variables, **claimed}
    if (template := obj.get("spec", "podSpec")) is not None:
        spec["podTemplate"] = {"spec": template}
        notes.append(
            Note(
                "changed",
                "podSpec",
                "it becomes podTemplate.spec (cluster); the container of the engine is called engine",
            )
        )
    timeout, last = _timeout(obj)
    return model_draft(name, spec | timeout, obj.origin, [*notes, *more, *most, *last])


def _timeout(obj: KubeObject) -> tuple[Json, list[Note]]:
    stated = obj.text("spec", "gatewayRoute", "timeout")
    try:
        if not stated or not parse_duration(stated):
            return {}, []
    except Unreadable:
        return {}, [Note("no equivalent", "gatewayRoute.timeout", f"{stated} is not a duration that hotseat reads")]
    note = Note(
        "changed", "gatewayRoute.timeout", "it becomes lifecycle.responseStartTimeout, the time until an answer starts"
    )
    return {"lifecycle": {"responseStartTimeout": stated}}, [note]


def _proxy(obj: KubeObject, routes: Routes) -> None:
    at = ("spec", "proxyConfig")
    routes.notes += obj.unknown(at, PROXY)
    if (environ := obj.reader.items(obj.at(*at, "env"))) and obj.get(*at, "configYaml") is None:
        named = ", ".join(str(each.get("name")) for each in environ if isinstance(each, dict))
        routes.notes.append(
            Note("no equivalent", f"{obj.name}.env", f"{named}: variables of LiteLLM, which is not run")
        )
    if obj.get("spec", "podSpec") is not None:
        routes.notes.append(
            Note("no equivalent", f"{obj.name}.podSpec", "LiteLLM is not run: hotseat's router is the proxy")
        )
    if text := obj.text(*at, "configYaml", "fromString"):
        _config(obj, text, routes)
        return
    if secret := obj.reader.mapping(obj.at(*at, "configYaml", "fromSecretKeyRef")):
        where, item = secret.get("name"), str(secret.get("key")).replace(".", r"\.")
        command = f"kubectl get secret {where} -o jsonpath='{{.data.{item}}}' | base64 -d | hotseat import -"
        routes.notes.append(
            Note("no equivalent", f"{obj.name}.configYaml", f"its routes are in a Secret; import them with: {command}")
        )
        return
    stated = obj.reader.texts(obj.at(*at, "models")) or [obj.text(*at, "model") or "*"]
    provider, base = obj.text(*at, "provider"), obj.text(*at, "apiBase")
    key, keyed = _key(obj, provider)
    timeout, notes = _timeout(obj)
    before = len(routes.models)
    for name in stated:
        if not base and not provider:
            routes.add_mock(name, obj.origin, notes)
        else:
            routes.add(
                name, f"{provider}/{name}" if provider else name, base, obj.origin, key=key, notes=[*notes, *keyed]
            )
    for draft in routes.models[before:]:
        draft.document["spec"] |= timeout


def _config(obj: KubeObject, text: str, routes: Routes) -> None:
    """Add the routes of a LiteLLM configuration within a ModelAPI."""
    for tree in parse(text, f"{obj.reader.file}: configYaml of {obj.name}"):
        if isinstance(tree, Problem):
            raise ManifestErrors([tree])
        inner = Reader(tree, f"{obj.reader.file}: configYaml of {obj.name}")
        routes.add_list(inner, ("model_list",))
        if inner.problems:
            raise ManifestErrors(inner.problems)


def _key(obj: KubeObject, provider: str) -> tuple[Json | None, list[Note]]:
    """Return where the key of a provider is: in apiKey, or in the variable that LiteLLM reads."""
    at: Path = ("spec", "proxyConfig", "apiKey")
    for index, each in enumerate(obj.reader.items(obj.at("spec", "proxyConfig", "env"))):
        if (
            obj.get(*at) is None
            and provider
            and isinstance(each, dict)
            and each.get("name") == f"{provider.upper()}_API_KEY"
        ):
            at = ("spec", "proxyConfig", "env", index)
    if obj.get(*at) is None:
        return None, []
    reference = obj.reader.mapping(obj.at(*at, "valueFrom", "secretKeyRef"))
    if reference:
        return {"secret": {"name": str(reference.get("name")), "key": str(reference.get("key"))}}, []
    return key_in(obj.text(*at, "value"), obj.name)
