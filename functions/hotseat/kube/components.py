"""The router and the switcher of a namespace: each is a Knative Service or a Deployment."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from hotseat.api.types import Json
from hotseat.kube.client import Kube
from hotseat.kube.constants import ADMIN_PORT, DEPLOYMENTS, QUEUE_PORT, SERVICE, SERVICES, Resource
from hotseat.kube.pods import condition

ROUTER: Final = "router"
SWITCHER: Final = "switcher"
DEMAND_SECRET: Final = "hotseat-demand"  # noqa: S105 - its name, as in knative/
SETTINGS_MAP: Final = "hotseat-settings"  # ConfigMap with environment variables of both
API_KEY_SECRET: Final = "hotseat-api-keys"  # noqa: S105

_KEY_FILE = "/etc/hotseat/demand/key"  # default of HOTSEAT_DEMAND_KEY_FILE


@dataclass(frozen=True, slots=True)
class Component:
    """The object of the router or of the switcher."""

    resource: Resource
    body: Json

    @property
    def name(self) -> str:
        """Name of the object."""
        return str(self.body["metadata"]["name"])

    @property
    def ready(self) -> bool:
        """Whether the component serves."""
        return self._condition.get("status") == "True"

    @property
    def not_ready_message(self) -> str:
        """Why the component does not serve, from the status of its object."""
        return str(self._condition.get("message") or self._condition.get("reason") or "no condition yet")

    @property
    def _condition(self) -> Json:
        return condition(self.body, "Ready" if self.resource is SERVICES else "Available")

    @property
    def url(self) -> str:
        """URL from Knative; empty for a Deployment."""
        return str(self.body.get("status", {}).get("url", ""))

    @property
    def selector(self) -> str:
        """Label selector of its pods."""
        if self.resource is SERVICES:
            return f"{SERVICE}={self.name}"
        labels: dict[str, str] = self.body["spec"]["selector"]["matchLabels"]
        return ",".join(f"{key}={value}" for key, value in labels.items())

    @property
    def port(self) -> int:
        """Port of its pods for requests."""
        if self.resource is SERVICES:
            return QUEUE_PORT
        ports = [port for each in self._pod["containers"] for port in each.get("ports", ())]
        return next((int(port["containerPort"]) for port in ports), 8080)

    @property
    def admin_port(self) -> int | None:
        """Port of its pods for admin routes; None if the port for requests has them."""
        text = self.variable("HOTSEAT_ADMIN_PORT", str(ADMIN_PORT))
        return int(text) if text.isdecimal() and int(text) else None

    @property
    def public(self) -> bool:
        """Whether Knative makes it reachable from outside of the cluster."""
        return self.resource is SERVICES and ".svc." not in (urlsplit(self.url).hostname or ".svc.")

    @property
    def demand_secret(self) -> str:
        """Name of the Secret with the key that signs demand; empty if no such Secret is mounted."""
        return self._secret_of(self.variable("HOTSEAT_DEMAND_KEY_FILE", _KEY_FILE))

    @property
    def api_key_secret(self) -> str:
        """Name of the Secret with the keys of clients; empty if no such Secret is mounted."""
        return self._secret_of(self.variable("HOTSEAT_API_KEY_FILE", ""))

    def _secret_of(self, path: str) -> str:
        """Return the name of the Secret with a file; empty if no such Secret is mounted."""
        volumes = {each["name"]: each for each in self._pod.get("volumes", ())}
        for each in self._pod["containers"]:
            for mount in each.get("volumeMounts", ()):
                if path.startswith(mount["mountPath"].rstrip("/") + "/"):
                    return str(volumes.get(mount["name"], {}).get("secret", {}).get("secretName", ""))
        return ""

    @property
    def service_account(self) -> str:
        """Name of its ServiceAccount."""
        return str(self._pod.get("serviceAccountName") or "default")

    @property
    def images(self) -> list[str]:
        """Images of its containers, and the image that it uses for Models."""
        own = [str(each["image"]) for each in self._pod["containers"] if each.get("image")]
        return [image for image in (*own, self.variable("HOTSEAT_IMAGE", "")) if image]

    def variable(self, name: str, default: str) -> str:
        """Return the value of an environment variable in the pod template, or `default` if it is not a plain value."""
        values = (env for each in self._pod["containers"] for env in each.get("env", ()) if env["name"] == name)
        return next((str(env.get("value", "")) for env in values if "valueFrom" not in env), default)

    @property
    def _pod(self) -> Json:
        spec: Json = self.body["spec"]["template"]["spec"]
        return spec


def find_component(kube: Kube, namespace: str, component: str) -> Component | None:
    """Return the router or the switcher: the Knative Service, else the Deployment, else None."""
    for resource in (SERVICES, DEPLOYMENTS):
        found = kube.find(resource.path(namespace, f"hotseat-{component}"))
        if found is not None:
            return Component(resource, found)
    return None
