"""The image that the switcher runs in, for fetch Jobs and for engines without an image of their own."""

import logging
import time
from collections.abc import Callable
from typing import Final

from hotseat.api.types import Json
from hotseat.kube.client import Kube, KubeError
from hotseat.kube.constants import PODS

PATIENCE: Final = 30.0  # seconds without an answer of the API server until the switcher exits, and is restarted
PAUSE: Final = 1.0  # seconds between two attempts

# Names of the switcher's container: in knative/, and where a Knative Service names none. Other containers are injected.
_CONTAINERS: Final = ("switcher", "user-container")

log = logging.getLogger(__name__)


def own_image(kube: Kube, pod: str, *, pause: Callable[[float], None] = time.sleep) -> str:
    """Return the image in the spec of the switcher's own pod. Wait for the API server.

    That is the image that was deployed, whoever has set it, and for a Knative Service its digest. Raise RuntimeError
    if the pod cannot be read.
    """
    path, end = PODS.path(kube.namespace, pod), time.monotonic() + PATIENCE
    while True:
        try:
            return _image(kube.get(path))
        except KubeError as error:
            if error.status or time.monotonic() > end:
                raise RuntimeError(
                    f"cannot read the switcher's own pod {kube.namespace}/{pod} to find its image: {error}; "
                    "allow the switcher to get pods (knative/base/roles.yaml), or set HOTSEAT_IMAGE"
                ) from error
            log.warning("waiting for the API server: %s", error)
            pause(PAUSE)


def _image(pod: Json) -> str:
    images = {str(each["name"]): str(each["image"]) for each in pod["spec"]["containers"]}
    return next((images[name] for name in _CONTAINERS if name in images), next(iter(images.values())))
