"""The router and the switcher as they stand in a namespace: a Knative Service each, or a Deployment."""

from dataclasses import dataclass
from typing import Final

from hotseat.kube.client import Json, Kube
from hotseat.kube.constants import DEPLOYMENTS, QUEUE_PORT, SERVICE, SERVICES, Resource

ROUTER: Final = "router"
SWITCHER: Final = "switcher"
DEMAND_SECRET: Final = "hotseat-demand"  # noqa: S105 - its name, as in knative/

_KEY_FILE = "/etc/hotseat/demand/key"  # where it is read from unless HOTSEAT_DEMAND_KEY_FILE says otherwise


@dataclass(frozen=True, slots=True)
class Component:
    """One of the two, as the API server tells of it."""

    resource: Resource
    body: Json

    @property
    def name(self) -> str:
        """Name of the object."""
        return str(self.body["metadata"]["name"])

    @property
    def ready(self) -> bool:
        """Whether it serves."""
        wanted = "Ready" if self.resource is SERVICES else "Available"
        return condition(self.body, wanted).get("status") == "True"

    @property
    def trouble(self) -> str:
        """Why it does not serve, in Kubernetes' words."""
        wanted = "Ready" if self.resource is SERVICES else "Available"
        found = condition(self.body, wanted)
        return str(found.get("message") or found.get("reason") or "no condition yet")

    @property
    def url(self) -> str:
        """Address that Knative gave it; empty for a Deployment."""
        return str(self.body.get("status", {}).get("url", ""))

    @property
    def selector(self) -> str:
        """Selects its pods."""
        if self.resource is SERVICES:
            return f"{SERVICE}={self.name}"
        labels: dict[str, str] = self.body["spec"]["selector"]["matchLabels"]
        return ",".join(f"{key}={value}" for key, value in labels.items())

    @property
    def port(self) -> int:
        """Port of its pods that takes requests."""
        if self.resource is SERVICES:
            return QUEUE_PORT
        ports = [port for each in self._pod["containers"] for port in each.get("ports", ())]
        return next((int(port["containerPort"]) for port in ports), 8080)

    @property
    def demand_secret(self) -> str:
        """Name of the Secret whose mount holds the key that demand is signed with; empty if there is no such mount."""
        volumes = {each["name"]: each for each in self._pod.get("volumes", ())}
        path = self.variable("HOTSEAT_DEMAND_KEY_FILE", _KEY_FILE)
        for each in self._pod["containers"]:
            for mount in each.get("volumeMounts", ()):
                if path.startswith(mount["mountPath"].rstrip("/") + "/"):
                    return str(volumes.get(mount["name"], {}).get("secret", {}).get("secretName", ""))
        return ""

    @property
    def images(self) -> list[str]:
        """Images that it runs, and the one that it gives to Models."""
        own = [str(each["image"]) for each in self._pod["containers"] if each.get("image")]
        return [image for image in (*own, self.variable("HOTSEAT_IMAGE", "")) if image]

    def variable(self, name: str, default: str) -> str:
        """Value of an environment variable, as far as the pod template tells it; the API server leaves out an empty one."""
        values = (env for each in self._pod["containers"] for env in each.get("env", ()) if env["name"] == name)
        return next((str(env.get("value", "")) for env in values if "valueFrom" not in env), default)

    @property
    def _pod(self) -> Json:
        spec: Json = self.body["spec"]["template"]["spec"]
        return spec


def find_part(kube: Kube, namespace: str, component: str) -> Component | None:
    """Find `hotseat-router` or `hotseat-switcher` in a namespace; a Knative Service counts before a Deployment."""
    for resource in (SERVICES, DEPLOYMENTS):
        found = kube.find(resource.path(namespace, f"hotseat-{component}"))
        if found is not None:
            return Component(resource, found)
    return None


def condition(body: Json, kind: str) -> Json:
    """Give a condition of an object's status; empty if it has none of that type."""
    return next((each for each in body.get("status", {}).get("conditions", ()) if each["type"] == kind), {})
