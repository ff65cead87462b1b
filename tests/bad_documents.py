"""Documents that `hotseat validate` and an API server with our CRDs must both refuse, and some that both must take."""

from typing import Any

from hotseat.api.types import Json


def model(engine: str | None = "mock", *, name: str = "a", head: Json | None = None, **spec: Any) -> Json:
    if engine is not None:
        spec = {"engine": engine} | spec
    return {
        "apiVersion": "hotseat.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": name} | (head or {}),
        "spec": spec,
    }


def workspace(**spec: Any) -> Json:
    return {"apiVersion": "hotseat.dev/v1alpha1", "kind": "Workspace", "metadata": {"name": "a"}, "spec": spec}


def custom(*command: str, **spec: Any) -> Json:
    return model("custom", command=["serve", *command], **spec)


def window(**fields: Any) -> Json:
    return model(lifecycle={"schedule": [fields]})


def vllm(**spec: Any) -> Json:
    return model("vllm", **{"source": "hf://o/r"} | spec)


PORT = "{port}"
# Field that `hotseat validate` points to, and words of the API server's refusal.
BAD: dict[str, tuple[Json, str, str]] = {
    # What is not known.
    "misspelt field": (model(nammes=["b"]), "spec.nammes", 'unknown field "spec.nammes"'),
    "snake case": (model(engine_model_name="b"), "spec.engine_model_name", 'unknown field "spec.engine_model_name"'),
    "former field": (model(aliases=["b"]), "spec.aliases", 'unknown field "spec.aliases"'),
    "field of another part": (model(idleTimeout="5m"), "spec.idleTimeout", 'unknown field "spec.idleTimeout"'),
    "field in a list": (model(env=[{"name": "A", "nam": "b"}]), "spec.env[0].nam", 'unknown field "spec.env[0].nam"'),
    "field of the metadata": (model(head={"lables": {}}), "metadata.lables", 'unknown field "metadata.lables"'),
    "field of the document": (model() | {"specs": {}}, "specs", 'unknown field "specs"'),
    "field of a workspace": (workspace(gpus=2), "spec.gpus", 'unknown field "spec.gpus"'),
    "value of an enum": (model(lifecycle={"release": "Parc"}), "spec.lifecycle.release", "supported values"),
    "value in a list": (model(capabilities=["embeddings"]), "spec.capabilities[0]", "supported values"),
    "value of onDelete": (model(cache={"onDelete": "Keep"}), "spec.cache.onDelete", "supported values"),
    "value of accessMode": (model(cache={"accessMode": "ReadOnlyMany"}), "spec.cache.accessMode", "supported values"),
    "field of a placement": (workspace(placement={"nodes": []}), "spec.placement.nodes", 'unknown field "spec.placement.nodes"'),
    "field of a toleration": (
        workspace(placement={"tolerations": [{"kye": "a"}]}), "spec.placement.tolerations[0].kye", 'unknown field "spec.placement.tolerations[0].kye"'
    ),
    "effect of a toleration": (
        workspace(placement={"tolerations": [{"effect": "NoSchedul"}]}), "spec.placement.tolerations[0].effect", "supported values"
    ),
    "label of a node": (
        workspace(placement={"nodeSelector": {"gpu": True}}), "spec.placement.nodeSelector.gpu", "must be of type string"
    ),
    "GPU resource": (workspace(placement={"resourceName": "gpu"}), "spec.placement.resourceName", "should match"),
    "runtime class": (workspace(placement={"runtimeClassName": "A"}), "spec.placement.runtimeClassName", "should match"),
    "value of fetchBy": (model(cache={"fetchBy": "job"}), "spec.cache.fetchBy", "supported values"),
    "value of runtime": (workspace(runtime="Keda"), "spec.runtime", "supported values"),
    "field of a filter": (model(filters={"strp": ["a"]}), "spec.filters.strp", 'unknown field "spec.filters.strp"'),
    "field of a name's filter": (
        model(filters={"byName": {"think": {"strp": []}}}), "spec.filters.byName.think.strp", 'unknown field "spec.filters.byName.think.strp"'
    ),
    "filter of the model's name": (model(filters={"strip": ["model"]}), "spec.filters.strip", "set by hotseat itself"),
    "weight of another strategy": (
        workspace(virtualModels=[{"name": "v", "members": [{"model": "a", "weight": 2}]}]), "spec.virtualModels[0].members", "weight is for strategy Weight only"
    ),
    "limit of another strategy": (
        workspace(virtualModels=[{"name": "v", "strategy": "Weight", "members": [{"model": "a", "maxRequests": 2}]}]),
        "spec.virtualModels[0].members", "maxRequests is for strategy Spillover only"
    ),
    "no members": (workspace(virtualModels=[{"name": "v", "members": []}]), "spec.virtualModels[0].members", "should have at least 1 items"),
    "strategy": (
        workspace(virtualModels=[{"name": "v", "strategy": "Cold", "members": [{"model": "a"}]}]), "spec.virtualModels[0].strategy", "supported values"
    ),
    "virtual model twice": (
        workspace(virtualModels=[{"name": "v", "members": [{"model": "a"}]}] * 2), "spec.virtualModels", "Duplicate value"
    ),
    "target that is no text": (workspace(profiles={"p": {"x": 1}}), "spec.profiles.p.x", "must be of type string"),
    "active profile": (workspace(profiles={"p": {}}, activeProfile="q"), "spec.activeProfile", "activeProfile is not in profiles"),
    # What is missing.
    "no engine": (model(None), "spec.engine", "spec.engine: Required value"),
    "empty engine": (model(""), "spec.engine", "should be at least 1 chars long"),
    "no spec": ({key: value for key, value in model().items() if key != "spec"}, "spec", "spec: Required value"),
    "variable without a name": (model(env=[{"value": "1"}]), "spec.env[0].name", "spec.env[0].name: Required value"),
    # What is of another type.
    "number for text": (model(args=["-c", 8192]), "spec.args[1]", "must be of type string"),
    "boolean for text": (model(names=[True]), "spec.names[0]", "must be of type string"),
    "number for a variable": (model(env=[{"name": "A", "value": 1}]), "spec.env[0].value", "must be of type string"),
    "text for a number": (model(port="80"), "spec.port", "must be of type integer"),
    "text for a boolean": (model(unlisted="true"), "spec.unlisted", "must be of type boolean"),
    "fraction": (model(port=80.5), "spec.port", "must be of type integer"),
    "text for a list": (model(args="-c 8192"), "spec.args", "must be of type array"),
    "mapping for a list": (model(env={"A": "b"}), "spec.env", "spec.env"),
    "list for a mapping": (model(resources=[1]), "spec.resources", "must be of type object"),
    "text for a mapping": (model(head={"labels": "x"}), "metadata.labels", "labels"),
    "null in a list": (model(args=[None]), "spec.args[0]", "must be of type string"),
    "NUL": (model(env=[{"name": "A", "value": "a\0b"}]), "spec.env[0].value", "spec.env[0].value in body should match"),
    "NUL for people": (model(description="\0"), "spec.description", "spec.description in body should match"),
    # Fallbacks.
    "fallback without a model": (model(fallback={"after": "1s"}), "spec.fallback.model", "spec.fallback.model: Required value"),
    "name for a fallback": (model(fallback="b"), "spec.fallback", "must be of type object"),
    "reason of a fallback": (model(fallback={"model": "other", "when": ["Idle"]}), "spec.fallback.when[0]", "supported values"),
    "bound of a fallback": (model(fallback={"model": "other", "after": 2}), "spec.fallback.after", "must be of type string"),
    # What is out of bounds.
    "port": (model(port=70000), "spec.port", "less than or equal to 65535"),
    "GPUs": (model(resources={"gpus": -1}), "spec.resources.gpus", "greater than or equal to 0"),
    "many GPUs": (model(resources={"gpus": 65}), "spec.resources.gpus", "less than or equal to 64"),
    "priority": (model(scheduling={"priority": 1001}), "spec.scheduling.priority", "less than or equal to 1000"),
    "replicas": (model(scheduling={"replicas": 0}), "spec.scheduling.replicas", "greater than or equal to 1"),
    "concurrency": (model(concurrency=-1), "spec.concurrency", "greater than or equal to 0"),
    "queue": (workspace(queue={"maxWaiting": -1}), "spec.queue.maxWaiting", "greater than or equal to 0"),
    "queue of a model": (
        workspace(queue={"maxWaitingPerModel": 100_001}), "spec.queue.maxWaitingPerModel", "less than or equal to 100000"
    ),
    "group without a name": (workspace(groups=[{"members": ["a"]}]), "spec.groups[0].name", "Required value"),
    "name of a group": (workspace(groups=[{"name": "A b"}]), "spec.groups[0].name", "should match"),
    "member of a group": (workspace(groups=[{"name": "g", "members": ["A"]}]), "spec.groups[0].members[0]", "should match"),
    "member of a set": (workspace(sets=[["A"]]), "spec.sets[0][0]", "should match"),
    "two groups of a name": (workspace(groups=[{"name": "g"}, {"name": "g"}]), "spec.groups", "Duplicate value"),
    "a Model in two groups": (
        workspace(groups=[{"name": "g", "members": ["m"]}, {"name": "h", "members": ["m"]}]),
        "spec.groups",
        "a Model is in two groups",
    ),
    "too many groups": (workspace(groups=[{"name": f"g{n}"} for n in range(17)]), "spec.groups", "must have at most 16 items"),
    "groups and sets": (workspace(groups=[{"name": "g"}], sets=[[]]), "spec.sets", "sets excludes groups"),
    "nothing counted, and nothing said": (
        workspace(capacity={"counted": False}), "spec.sets", "capacity.counted is false, so groups or sets are required"
    ),
    "capacity": (workspace(capacity={"gpus": 1025}), "spec.capacity.gpus", "less than or equal to 1024"),
    "many arguments": (model(args=["x"] * 101), "spec.args", "must have at most 100 items"),
    "long argument": (model(args=["x" * 8193]), "spec.args[0]", "may not be more than 8192"),
    "many names": (model(names=[f"b{n}" for n in range(101)]), "spec.names", "must have at most 100 items"),
    # What is spelt wrong.
    "name": (model(name="qwen2.5"), "metadata.name", "metadata.name"),
    "name that begins with a digit": (model(name="7b"), "metadata.name", "metadata.name"),
    "long name": (model(name="a" * 64), "metadata.name", "may not be more than 63"),
    "empty name": (model(names=[""]), "spec.names[0]", "spec.names[0] in body should be at least 1 chars long"),
    "long other name": (model(names=["x" * 1025]), "spec.names[0]", "may not be more than 1024"),
    "workspace": (model(workspace="A"), "spec.workspace", "spec.workspace in body should match"),
    "device": (workspace(capacity={"devices": ["0,1"]}), "spec.capacity.devices[0]", "devices[0] in body should match"),
    "variable": (model(env=[{"name": "A-B"}]), "spec.env[0].name", "spec.env[0].name in body should match"),
    "path": (model(health={"path": "health"}), "spec.health.path", "spec.health.path in body should match"),
    "url": (model("external", url="ftp://h"), "spec.url", "spec.url in body should match"),
    "claim": (model(cache={"existingClaim": "A"}), "spec.cache.existingClaim", "existingClaim in body should match"),
    "pull secret": (model(imagePullSecrets=["a_b"]), "spec.imagePullSecrets[0]", "imagePullSecrets[0] in body should"),
    "credentials": (model(credentials="a/b"), "spec.credentials", "spec.credentials in body should match"),
    "header of tenants": (workspace(tenants={"header": "X_Tenant"}), "spec.tenants.header", "header in body should match"),
    "header with a secret": (workspace(tenants={"header": "X-API-Key"}), "spec.tenants.header", "header carries secrets"),
    "text for a weight": (workspace(tenants={"weights": {"a": "2"}}), "spec.tenants.weights.a", "must be of type integer"),
    "no weight at all": (workspace(tenants={"weights": {"a": 0}}), "spec.tenants.weights.a", "greater than or equal to 1"),
    "too many of a tenant": (workspace(queue={"maxWaitingPerTenant": -1}), "spec.queue.maxWaitingPerTenant", "or equal to 0"),
    "negative bytes that wait": (workspace(queue={"maxWaitingBytes": -1}), "spec.queue.maxWaitingBytes", "or equal to 0"),
    "bare number for ageing": (workspace(policy={"ageing": 30}), "spec.policy.ageing", "must be of type string"),
    # Quantities and durations.
    "number for a duration": (model(lifecycle={"idleTimeout": 300}), "spec.lifecycle.idleTimeout", "of type string"),
    "duration without a unit": (model(lifecycle={"idleTimeout": "300"}), "spec.lifecycle.idleTimeout", "should match"),
    "words for a duration": (workspace(policy={"maxWait": "5 minutes"}), "spec.policy.maxWait", "should match"),
    "negative duration": (model(scheduling={"maxWait": "-5s"}), "spec.scheduling.maxWait", "should match"),
    "endless duration": (model(lifecycle={"startTimeout": "3000000h"}), "spec.lifecycle.startTimeout", "startTimeout"),
    "GB": (model(resources={"memory": "24GB"}), "spec.resources.memory", "spec.resources.memory in body should match"),
    "thousandths of a byte": (model(resources={"memory": "512m"}), "spec.resources.memory", "should match"),
    "negative memory": (model(resources={"memory": -1}), "spec.resources.memory", "greater than or equal to 0"),
    "endless memory": (model(cache={"size": "99999P"}), "spec.cache.size", "too large for a quantity"),
    "endless CPU": (model(resources={"cpu": "99999P"}), "spec.resources.cpu", "too large for a quantity"),
    "list for a quantity": (model(resources={"cpu": [1]}), "spec.resources.cpu", "spec.resources.cpu"),
    "memory of a workspace": (
        workspace(capacity={"acceleratorMemory": "80 Gi"}), "spec.capacity.acceleratorMemory", "should match"
    ),
    # Windows of a schedule.
    "window without a duration": (window(start="0 8 * * *"), "spec.lifecycle.schedule[0].duration", "schedule[0].duration: Required"),
    "window without a start": (window(duration="1h"), "spec.lifecycle.schedule[0].start", "schedule[0].start: Required"),
    "window that is never open": (
        window(start="0 8 * * *", duration="0s"), "spec.lifecycle.schedule[0].duration", "the window would never be open"
    ),
    "name of a time zone": (
        window(start="0 8 * * *", duration="1h", timeZone="Europe/ Berlin"), "spec.lifecycle.schedule[0].timeZone", "should match"
    ),
    **{
        f"cron {start}": (window(start=start, duration="1h"), "spec.lifecycle.schedule[0].start", "start in body should match")
        for start in (
            "0 8 * *", "0 8 * * * *", "@daily", "60 8 * * *", "0 24 * * *", "0 8 0 * *", "0 8 * 13 *", "0 8 * * 8",
            "0 8 * * Monday", "*/0 * * * *", "0  8 * * *", "0 8 * * 5L",
        )
    },
    "many windows": (
        model(lifecycle={"schedule": [{"start": "0 8 * * *", "duration": "1h"}] * 21}), "spec.lifecycle.schedule", "must have at most 20"
    ),
    "active model without a name": (
        workspace(activeModel=""), "spec.activeModel", "spec.activeModel in body should be at least 1 chars long"
    ),
    "list of active models": (workspace(activeModel=["a"]), "spec.activeModel", "must be of type string"),
    "return to nothing": (workspace(returnToDefault="5m"), "spec.returnToDefault", "returnToDefault needs defaultModel"),
    # Sources.
    "unknown scheme": (model(source="hg://o/r"), "spec.source", "source begins with something unknown"),
    "scheme in capitals": (model(source="HF://o/r"), "spec.source", "source begins with something unknown"),
    "scheme without slashes": (model(source="hf:o/r"), "spec.source", "source begins with something unknown"),
    "scheme alone": (model(source="hf://"), "spec.source", "source has no name after its scheme"),
    "slashes alone": (model(source="file:///"), "spec.source", "source has no name after its scheme"),
    "empty source": (model(source=""), "spec.source", "source is empty"),
    "blank source": (model(source=" "), "spec.source", "source is empty"),
    # What does not go together.
    "claim and size": (
        model(cache={"existingClaim": "a", "size": "1Gi"}),
        "spec.cache.existingClaim",
        "existingClaim excludes size and storageClass",
    ),
    "claim and class": (
        model(cache={"existingClaim": "a", "storageClass": "b"}),
        "spec.cache.existingClaim",
        "existingClaim excludes size and storageClass",
    ),
    "variable twice": (model(env=[{"name": "A"}, {"name": "A"}]), "spec.env", "Duplicate value"),
    "name twice": (model(names=["b", "b"]), "spec.names[1]", "Duplicate value"),
    "pod template": (model(podTemplate={"specs": {}}), "spec.podTemplate", 'unknown field "spec.podTemplate.specs"'),
    "part of a pod template": (model(podTemplate={"spec": []}), "spec.podTemplate", "must be of type object"),
    "replicas on one port": (
        model(scheduling={"replicas": 2}, concurrency=1, port=80), "spec.scheduling", "replicas cannot share a fixed port"
    ),
    "replicas without a bound": (
        model(scheduling={"replicas": 2}), "spec.concurrency", "scheduling.replicas needs concurrency"
    ),
    "fewer devices than GPUs": (
        workspace(capacity={"gpus": 2, "devices": ["0"]}), "spec.capacity.devices", "devices names more or fewer GPUs"
    ),
    "device twice": (
        workspace(capacity={"gpus": 2, "devices": ["0", "0"]}), "spec.capacity.devices", "Duplicate value"
    ),
    "sleep without wake": (
        model(lifecycle={"sleep": [{"path": "/s"}]}), "spec.lifecycle.wake", "sleep and wake go together"
    ),
    "wake without sleep": (
        model(lifecycle={"wake": [{"path": "/w"}]}), "spec.lifecycle.wake", "sleep and wake go together"
    ),
    "path of a call": (
        model(lifecycle={"sleep": [{"path": "/a b"}], "wake": [{"path": "/"}]}), "spec.lifecycle.sleep[0].path", "should match"
    ),
    "method of a call": (
        model(lifecycle={"sleep": [{"path": "/s", "method": "post"}], "wake": [{"path": "/w"}]}),
        "spec.lifecycle.sleep[0].method",
        "supported values",
    ),
    "many calls": (
        model(lifecycle={"sleep": [{"path": "/s"}] * 11, "wake": [{"path": "/w"}]}), "spec.lifecycle.sleep", "at most 10 items"
    ),
    **{
        f"{engine} parks": (
            model(engine, lifecycle={"release": "Park"}, **spec),
            "spec.lifecycle.release",
            f"lifecycle.release is Park, but engine {engine} cannot sleep",
        )
        for engine, spec in {
            "llamacpp": {"source": "/x"}, "custom": {"command": ["x"], "port": 80}, "external": {"url": "http://h"},
            "tgi": {"source": "/x"}, "tei": {"source": "/x"}, "ollama": {"source": "ollama://x"}, "whispercpp": {"source": "/x"},
        }.items()
    },
    # Engines.
    "external without url": (model("external"), "spec.url", "engine external needs url"),
    "url of another": (model(url="http://h"), "spec.url", "url is for engine external only"),
    "failover of another": (model(failoverUrls=["http://h"]), "spec.failoverUrls", "failoverUrls is for engine external only"),
    "failover with a password": (
        model("external", url="http://h", failoverUrls=["http://u:p@h"]),
        "spec",
        "failoverUrls has a URL of a form that is not allowed",
    ),
    "retries of another": (model(retries={"attempts": 1}), "spec.retries", "retries is for engine external only"),
    "circuit breaker of another": (model(circuitBreaker={}), "spec.circuitBreaker", "circuitBreaker is for engine external only"),
    "retried status": (
        model("external", url="http://h", retries={"statuses": [200]}), "spec.retries.statuses[0]", "greater than or equal to 400"
    ),
    "external with a password": (model("external", url="http://u:p@h"), "spec", "url has a form that is not allowed"),
    "external with a fragment": (model("external", url="http://h/v1#x"), "spec", "url has a form that is not allowed"),
    "TLS without https": (model("external", url="http://h", tls={"serverName": "h"}), "spec.tls", "tls is set, but url does not begin with https://"),
    "TLS of another": (model(tls={"insecureSkipVerify": True}), "spec.tls", "tls is for engine external only"),
    "mock response of another": (model(mockResponse="x"), "spec.mockResponse", "mockResponse is for engine external only"),
    "mock response by request of another": (
        model(allowMockResponse=True), "spec.allowMockResponse", "allowMockResponse is for engine external only"
    ),
    "key without a source": (model(engineKey={}), "spec.engineKey", "exactly one of value, env, file and secret must be set"),
    "key with two sources": (
        model(engineKey={"env": "A", "file": "b"}), "spec.engineKey", "exactly one of value, env, file and secret must be set"
    ),
    "key in a header of ours": (model(engineKey={"header": "Host", "env": "A"}), "spec.engineKey.header", "is set by hotseat itself"),
    "header without a value": (
        model(headers=[{"name": "A"}]), "spec.headers[0]", "exactly one of value, env, file and secret must be set"
    ),
    "header of ours": (
        model(headers=[{"name": "content-length", "value": "1"}]), "spec.headers[0].name", "is set by hotseat itself"
    ),
    "header twice": (
        model(headers=[{"name": "A", "value": "1"}, {"name": "a", "value": "2"}]), "spec.headers", "is set twice, by headers or engineKey"
    ),
    "header of the key": (
        model(engineKey={"env": "A"}, headers=[{"name": "authorization", "value": "1"}]),
        "spec.headers",
        "is set twice, by headers or engineKey",
    ),
    **{
        f"external with {field}": (
            model("external", url="http://h", **{field: value}),
            "spec",
            f"engine external starts nothing, so {field} has no meaning",
        )
        for field, value in {
            "command": ["x"], "args": ["x"], "env": [{"name": "A"}], "port": 80, "source": "/x",
        }.items()
    },
    "custom without command": (model("custom"), "spec.command", "engine custom needs command"),
    "custom with an empty command": (model("custom", command=[], port=80), "spec.command", "engine custom needs command"),
    "unknown field in braces": (custom(PORT, "{prot}"), "spec", "command: fields are {port}, {host}"),
    "empty braces": (custom(PORT, "{}"), "spec", "command: fields are {port}, {host}"),
    "single brace": (custom(PORT, "{port"), "spec", "command: fields are {port}, {host}"),
    "single brace after doubled ones": (custom(PORT, "{{port}"), "spec", "command: fields are {port}, {host}"),
    "bad variable in braces": (custom(PORT, args=["{env:1}"]), "spec", "args: fields are {port}, {host}"),
    "model without a source": (custom(PORT, "-m={model}"), "spec", "{model} is used, but source is not set"),
    "model in args without a source": (custom(PORT, args=["{model}"]), "spec", "{model} is used, but source is not set"),
    "listens nowhere": (custom(), "spec", "neither command nor args contain {port}, and port is not set"),
    "doubled braces are no port": (custom("{{port}}"), "spec", "neither command nor args contain {port}, and port is not set"),
    "llamacpp without a source": (model("llamacpp"), "spec", "engine llamacpp needs source"),
    "port of llamacpp": (model("llamacpp", source="/x", args=["--port=1"]), "spec", "args has what hotseat sets itself: ^(-m"),
    "model of llamacpp": (model("llamacpp", source="/x", args=["-m", "y"]), "spec", "args has what hotseat sets itself: ^(-m"),
    **{
        f"{engine} without a source": (model(engine), "spec", f"engine {engine} needs source")
        for engine in ("sglang", "tgi", "tei", "ollama", "whispercpp")
    },
    **{
        f"{engine} with {flag}": (model(engine, source="/x", args=[flag]), "spec", "args has what hotseat sets itself")
        for engine, flag in {
            "sglang": "--model_path=x", "tgi": "--hostname", "tei": "-p", "whispercpp": "--inference-path=/x",
        }.items()
    },
    **{
        f"{engine} from ollama": (model(engine, source="ollama://x"), "spec", f"engine {engine} cannot read ollama://")
        for engine in ("sglang", "tgi", "tei")
    },
    **{
        f"{engine} fetches a file": (
            model(engine, source="hf://o/r/f", cache={"fetchBy": "Engine"}), "spec", f"{engine} fetches whole repositories only"
        )
        for engine in ("sglang", "tgi", "tei")
    },
    "ollama from a file": (model("ollama", source="/x.gguf"), "spec", "engine ollama needs source: ollama://NAME"),
    "args of ollama": (model("ollama", source="ollama://x", args=["-v"]), "spec", "args has no meaning for engine ollama"),
    "name for ollama": (
        model("ollama", source="ollama://x", engineModelName="y"), "spec", "engineModelName has no meaning for engine ollama"
    ),
    "replicas of ollama": (
        model("ollama", source="ollama://x", scheduling={"replicas": 2}, concurrency=1), "spec", "cannot have scheduling.replicas"
    ),
    # LoRA adapters.
    "adapters of another engine": (model(loras=[{"name": "b", "source": "/x"}]), "spec.loras", "loras is for engine vllm only"),
    "adapter without a source": (vllm(loras=[{"name": "b"}]), "spec.loras[0].source", "spec.loras[0].source: Required value"),
    "adapter twice": (vllm(loras=[{"name": "b", "source": "/x"}] * 2), "spec.loras[1].name", "Duplicate value"),
    "adapter with a name of the base": (
        vllm(names=["b"], loras=[{"name": "b", "source": "/x"}]), "spec.loras[0].name", "loras has a name that names has too"
    ),
    "adapters that sleep deeply": (
        vllm(loras=[{"name": "b", "source": "/x"}], vllm={"sleepLevel": 2}, lifecycle={"release": "Park"}),
        "spec",
        "vllm.sleepLevel is 2, from which vLLM does not wake with LoRA adapters",
    ),
    "adapter of an unknown scheme": (
        vllm(loras=[{"name": "b", "source": "hg://o/r"}]), "spec.loras", "source begins with something unknown"
    ),
    "another model for llamacpp": (
        model("llamacpp", source="/x", args=["-hf", "o/r"]), "spec", "args names a model, for which source is"
    ),
    "router of llamacpp": (
        model("llamacpp", source="/x", args=["--models-dir=/m"]), "spec", "args has flags of llama-server's router"
    ),
    # vLLM.
    "vllm without a source": (model("vllm"), "spec", "engine vllm needs source"),
    "vllm from ollama": (vllm(source="ollama://x"), "spec", "engine vllm cannot read ollama://"),
    "host of vllm": (vllm(args=["--host", "::"]), "spec", "args has what hotseat sets itself: ^--(host"),
    "name of vllm": (vllm(args=["--served_model_name=x"]), "spec", "args has what hotseat sets itself: ^--(host"),
    "vllm fetches a file": (
        vllm(source="hf://o/r/f.gguf", cache={"fetchBy": "Engine"}), "spec", "vllm fetches whole repositories only"
    ),
    "vllm fetches by https": (
        vllm(source="https://h/f", cache={"fetchBy": "Engine"}), "spec", "vllm fetches whole repositories only"
    ),
    "settings of vllm": (model(vllm={}), "spec.vllm", "vllm is for engine vllm only"),
    "more parts than GPUs": (
        vllm(vllm={"tensorParallelSize": 2}), "spec", "vllm.tensorParallelSize is more than resources.gpus"
    ),
    "tool choice without a parser": (
        vllm(vllm={"enableAutoToolChoice": True}), "spec.vllm.enableAutoToolChoice", "enableAutoToolChoice needs toolCallParser"
    ),
    "tool choice with the parser none": (
        vllm(vllm={"enableAutoToolChoice": True, "toolCallParser": ""}),
        "spec.vllm.enableAutoToolChoice",
        "enableAutoToolChoice needs toolCallParser",
    ),
    **{
        f"vllm.{field}: {value}": (vllm(vllm={field: value}), f"spec.vllm.{field}", words)
        for field, value, words in (
            ("toolCallParser", "herms", "supported values"),
            ("reasoningParser", "r1", "supported values"),
            ("dtype", "int8", "supported values"),
            ("tensorParallelSize", 0, "greater than or equal to 1"),
            ("maxModelLen", 511, "greater than or equal to 512"),
            ("gpuMemoryUtilization", 0.05, "greater than or equal to 0.1"),
            ("gpuMemoryUtilization", 1.01, "less than or equal to 1"),
            ("gpuMemoryUtilization", "0.9", "must be of type number"),
            ("maxNumBatchedTokens", 0, "greater than or equal to 1"),
            ("maxNumSeqs", 0, "greater than or equal to 1"),
            ("sleepLevel", 3, "supported values"),
            ("cpuOffloadGB", -1, "greater than or equal to 0"),
            ("cpuOffloadGb", 1, 'unknown field "spec.vllm.cpuOffloadGb"'),
            ("enablePrefixCaching", "yes", "must be of type boolean"),
        )
    },
}  # fmt: skip

GOOD: dict[str, Json] = {
    "all of an upstream": model(
        "external",
        names=["openai/*"],
        engineModelName="*",
        url="https://h:8443/v1?api-version=1",
        engineKey={"secret": {"name": "team", "key": "openai.key"}, "header": "api-key"},
        headers=[{"name": "OpenAI-Organization", "value": "o"}, {"name": "X-Key", "file": "key"}],
        tls={"caFile": "ca.pem", "serverName": "api.example.com", "insecureSkipVerify": False},
        allowMockResponse=True,
        lifecycle={"responseStartTimeout": "0s", "responseStartTimeouts": {"chat": "5m", "embedding": "0s"}},
    ),
    "a mock response": model("external", mockResponse=""),
    "all of vllm": vllm(
        vllm={
            "toolCallParser": "hermes", "reasoningParser": "", "tensorParallelSize": 2, "maxModelLen": 512,
            "gpuMemoryUtilization": 1, "enableChunkedPrefill": True, "maxNumBatchedTokens": 1, "maxNumSeqs": 1,
            "dtype": "half", "disableCustomAllReduce": True, "enablePrefixCaching": False, "cpuOffloadGB": 0.5,
            "enableAutoToolChoice": True, "sleepLevel": 2,
        },
        lifecycle={"release": "Park"},
        resources={"gpus": 1 + 1},
        source="hf://o/r@main",
        cache={"fetchBy": "Engine", "onDelete": "Delete", "existingClaim": "a.b"},
        args=["--port-range", "1"],
    ),
    "sglang that parks": model("sglang", source="hf://o/r@main", lifecycle={"release": "Park"}, args=["--tp", "1"]),
    "tgi that fetches": model("tgi", source="hf://o/r", cache={"fetchBy": "Engine"}, args=["--port-range", "1"]),
    "tei on a CPU": model("tei", source="pvc://c/p", resources={"gpus": 0}),
    "whispercpp": model("whispercpp", source="hf://ggerganov/whisper.cpp/ggml-base.bin", args=["--threads", "4"]),
    "ollama with slots": model("ollama", source="ollama://hf.co/o/r:Q4_K_M", concurrency=4, env=[{"name": "OLLAMA_DEBUG"}]),
    "adapters that sleep": vllm(loras=[{"name": "b", "source": "/b"}], vllm={"sleepLevel": 1}, lifecycle={"release": "Park"}),
    "adapters": vllm(loras=[{"name": "B c", "source": "hf://o/b"}, {"name": "d", "source": "/d"}]),
    "virtual models and profiles": workspace(
        virtualModels=[
            {"name": "v w", "members": [{"model": "other"}]},
            {"name": "s", "strategy": "Spillover", "members": [{"model": "other", "maxRequests": 1}, {"model": "other"}], "description": "x"},
            {"name": "t", "strategy": "Weight", "members": [{"model": "other", "weight": 3}, {"model": "other"}]},
        ],
        profiles={"p q": {"x": "other", "y": "", "z": "s"}, "none": {}},
        activeProfile="p q",
    ),
    "filters": model(
        filters={
            "strip": ["a", "b.c"], "default": {"a": None, "b.c": [1, {"d": 0.5}]}, "set": {"a": "x"},
            "byName": {"a:think": {"set": {"chat_template_kwargs": {"enable_thinking": True}}}, "a:plain": {}},
        }
    ),
    "vllm without a GPU": vllm(vllm={"tensorParallelSize": 2}, resources={"gpus": 0}),
    "vllm that reads a claim": vllm(source="pvc://c/p", cache={"fetchBy": "Engine"}),
    "fields in braces": custom("{port}{host}", "{{x}}", "{{{name}}}", "{env:A_1}", "{model}", source="s3://b/k"),
    "a port of its own": custom("x", port=80),
    "fields with a dollar": custom("${port}", "$${HOME}", "${env:HOME}"),
    "what the models of a workspace share": workspace(
        modelDefaults={"engine": "mock", "lifecycle": {"idleTimeout": "5m"}, "args": ["${a}"]}, macros={"a": "${b}", "b-1": ""}
    ),
    "engine of one's own that sleeps": custom(
        PORT,
        lifecycle={
            "release": "Park",
            "sleep": [{"path": "/sleep?level=1", "method": "POST", "body": "{}", "timeout": "20s"}],
            "wake": [{"path": "/wake_up"}, {"path": "/health", "method": "GET"}],
        },
    ),
    "llamacpp behind something that sleeps": model(
        "llamacpp", source="/x", lifecycle={"release": "Park", "sleep": [{"path": "/s"}], "wake": [{"path": "/w"}]}
    ),
    "external": model("external", url="http://h:80/"),
    "llamacpp": model("llamacpp", source="/x", args=["--model-alias", "--ports"]),
    **{
        f"source {source}": model(source=source)
        for source in ("a.gguf", "./a b", "~/m", "/m", "qwen2.5:7b", "ollama://x", "pvc://c/p", "https://h/x", "file://m")
    },
    "quantities": model(
        resources={"cpu": 4, "memory": 2**40, "acceleratorMemory": "1.5Gi", "gpus": 0}, cache={"size": "9000P"}
    ),
    "thousandths of a core": model(resources={"cpu": "500m"}),
    "durations": model(lifecycle={"idleTimeout": "0", "startTimeout": "1h30m", "drainTimeout": "250ms"}),
    "long duration": model(lifecycle={"startTimeout": "2562047h"}),
    "windows": model(
        lifecycle={
            "schedule": [
                {"start": "0 8 * * 1-5", "duration": "10h", "timeZone": "Europe/Berlin", "pinned": True},
                {"start": "*/15,7 0-6/2 1,15 jan-MAR,12 MON", "duration": "1m", "timeZone": "Etc/GMT+1"},
            ]
        }
    ),
    "what a cluster runs": model(
        podTemplate={"metadata": {"labels": {"a": "b"}}, "spec": {"tolerations": [{"operator": "Exists"}]}},
        imagePullSecrets=["1.a"],
        credentials="hub",
        metadata={"any": {"thing": [1, None]}},
        env=[{"name": "A"}, {"name": "B", "value": ""}],
    ),
    "fallback": model(fallback={"model": "other", "when": ["Failed"], "after": "0s"}),
    "fallback that is put off": model(fallback={"model": "other", "when": []}),
    "workspace": workspace(capacity={"gpus": 2, "acceleratorMemory": "80Gi"}, policy={"maxWait": "1m"}),
    "placement": workspace(
        placement={
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
            "affinity": {"nodeAffinity": {"any": [1]}},
            "runtimeClassName": "nvidia",
            "resourceName": "nvidia.com/mig-3g.40gb",
        }
    ),
    "GPUs by name": workspace(capacity={"gpus": 2, "devices": ["0", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"]}),
    "replicas": model(scheduling={"replicas": 3}, concurrency=4),
    "workspace of empty groups": workspace(groups=[{"name": "g"}, {"name": "h", "swap": False, "members": []}]),
    "workspace of empty sets, uncounted": workspace(capacity={"counted": False}, sets=[[]]),
    "workspace that says nothing": {key: value for key, value in workspace().items() if key != "spec"},
}  # fmt: skip
