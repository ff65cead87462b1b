"""Read documents: from files to a Manifest, or to all their problems. All YAML of hotseat is read here."""

from hotseat.manifests.checks import Plugins
from hotseat.manifests.loading import Manifest, load
from hotseat.manifests.problems import ManifestErrors, Problem

__all__ = ["Manifest", "ManifestErrors", "Plugins", "Problem", "load"]
