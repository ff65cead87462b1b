"""Reading the documents: files in, a Manifest or every problem at once out. Nothing else of hotseat reads YAML."""

from hotseat.manifests.checks import Plugins
from hotseat.manifests.loading import Manifest, load
from hotseat.manifests.problems import ManifestErrors, Problem

__all__ = ["Manifest", "ManifestErrors", "Plugins", "Problem", "load"]
