"""The settings of Knative that hotseat needs: the purpose of each, and the check of its value. No I/O."""

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from hotseat.api.types import Json
from hotseat.api.units import Unreadable, parse_duration
from hotseat.kube.checks import SERVING, Finding, Patch, Verdict, ok

MAX_REQUEST_TIME: Final = 7200  # seconds: timeoutSeconds of the router, which waits and streams for so long
MIN_PROGRESS_DEADLINE: Final = 300  # seconds: the default time for loading
_OPERATOR: Final = "KnativeServing"  # kind of the operator's object; the operator reverts changes of its ConfigMaps


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a ConfigMap in Knative Serving's namespace."""

    config: str
    key: str
    default: str  # Knative's value if the key is missing
    wanted: str
    why: str
    good: Callable[[str], bool]
    advisory: bool = False  # a bad value is advice, not an error


def _feature(name: str, why: str, *, advisory: bool = False) -> Setting:
    def good(value: str) -> bool:
        return value.lower() in {"enabled", "allowed"}

    return Setting("config-features", f"kubernetes.podspec-{name}", "disabled", "enabled", why, good, advisory)


def settings(models: Sequence[Json], images: Sequence[str] = ()) -> Iterator[Setting]:
    """Yield the settings that Models and the images of hotseat need. Those that no Model uses are advisory."""
    used = {field for model in models for field in _pod_fields(model)}
    yield _feature("persistent-volume-claim", "Models store their weights on a volume")
    yield _feature("persistent-volume-write", "engines write into their cache: compiled kernels, lock files")
    yield _feature("nodeselector", "pods of a Model must be scheduled to nodes with the right GPU")
    yield _feature("tolerations", "nodes with GPUs are often tainted")
    yield _feature("runtimeclassname", "some clusters offer GPUs only to the runtime class nvidia")
    yield _feature("init-containers", "a pod template may run init containers before its engine")
    why = "fsGroup makes a volume writable for an engine that is not root"
    yield _feature("securitycontext", why, advisory="securityContext" not in used)
    yield _feature("affinity", "a pod template may select nodes by affinity", advisory="affinity" not in used)
    why = "Models start at zero pods, and are loaded only when it is their turn"
    yield Setting("config-autoscaler", "allow-zero-initial-scale", "false", "true", why, _is_true)
    why = f"the router requests {MAX_REQUEST_TIME} seconds, so that long streams and queued requests are not cut"
    key = "max-revision-timeout-seconds"
    yield Setting(
        "config-defaults", key, "600", str(MAX_REQUEST_TIME), why, lambda value: int(value) >= MAX_REQUEST_TIME
    )
    why = "a pod that waits shortly for its GPU must not fail its Knative Service"
    yield Setting("config-deployment", "pod-is-always-schedulable", "false", "true", why, _is_true)
    why = f"Knative gives up what loads for longer, where a Knative Service says nothing of its own; at least {MIN_PROGRESS_DEADLINE}s"
    key = "progress-deadline"
    yield Setting(
        "config-deployment", key, "600s", "600s", why, lambda value: parse_duration(value) >= MIN_PROGRESS_DEADLINE
    )
    yield _tag_resolving([*images, *(str(model["spec"]["image"]) for model in models if model["spec"].get("image"))])


KOURIER: Final = Setting(
    "config-kourier", "stream-idle-timeout", "0s", "0s",
    "a silent stream is cut after this time, and a queued request is silent",
    lambda value: parse_duration(value) == 0, advisory=True,
)  # fmt: skip


def judge(setting: Setting, config: Json) -> Finding:
    """Check the value in a ConfigMap, or the default if it has none."""
    subject = f"{setting.config} {setting.key}"
    value = str((config.get("data") or {}).get(setting.key, setting.default))
    seen = value if setting.key in (config.get("data") or {}) else f"{value} (default)"
    try:
        if setting.good(value):
            return ok(subject, seen)
    except (ValueError, Unreadable):
        seen += " (unreadable)"
    verdict = Verdict.ADVICE if setting.advisory else Verdict.WRONG
    owner = next((each for each in config["metadata"].get("ownerReferences", ()) if each["kind"] == _OPERATOR), None)
    if owner is not None:
        body = {"spec": {"config": {setting.config.removeprefix("config-"): {setting.key: setting.wanted}}}}
        remedy = (
            f"kubectl -n {SERVING} patch knativeserving {owner['name']} --type merge -p {shlex.quote(json.dumps(body))}"
        )
        return Finding(subject, verdict, seen, setting.why, remedy)
    patch = Patch(SERVING, setting.config, setting.key, setting.wanted)
    remedy = (
        f"kubectl -n {SERVING} patch configmap {setting.config} --type merge -p {shlex.quote(json.dumps(patch.body))}"
    )
    return Finding(subject, verdict, seen, setting.why, remedy, patch)


def _is_true(value: str) -> bool:
    return value.lower() == "true"


def _pod_fields(model: Json) -> Sequence[str]:
    return list(((model["spec"].get("podTemplate") or {}).get("spec") or {}).keys())


def _tag_resolving(images: Sequence[str]) -> Setting:
    """Return the setting for images that exist on the nodes only, so that no registry has their digest."""
    default = "kind.local,ko.local,dev.local"
    local = sorted({image.split("/")[0] for image in images if _is_local(image)})
    why = "Knative looks up the digest of an image in its registry, which fails for images that are only on the nodes"

    def good(value: str) -> bool:
        return set(local) <= {each.strip() for each in value.split(",")}

    wanted = ",".join(dict.fromkeys([*default.split(","), *local]))
    return Setting("config-deployment", "registries-skipping-tag-resolving", default, wanted, why, good)


def _is_local(image: str) -> bool:
    """Whether the registry of an image is not on the network, by its name."""
    host, slash, _ = image.partition("/")
    return bool(slash) and "@sha256:" not in image and (host.endswith(".local") or host.split(":")[0] == "localhost")
