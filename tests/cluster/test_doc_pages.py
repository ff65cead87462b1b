"""docs/getting-started-cluster.md and the commands of runbooks are run: see tests/doc_pages.py. In place of its model there are mocks, as the image may have none."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doc_pages import DOCS, ROOT, Walk, blocks

from .harness import IMAGE, Hotseat, apply_crds, destroy

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

IN_RUNBOOKS = {  # what of the runbooks is not run, and why
    "kubectl annotate": "nothing is to be settled",
    "kubectl get broker,trigger": "there is no Broker without Knative",
    "kubectl get servicemonitor,networkpolicy": "Prometheus' operator is not there",
    "kubectl hotseat events": "it follows them without an end",
    "kubectl port-forward": "a port of the machine that may be taken",
    "systemctl": "one machine",
    "journalctl": "one machine",
    "curl": "one machine",
}


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Hotseat]:
    before = request.session.testsfailed
    home = Hotseat(f"hotseat-test-{uuid.uuid4().hex[:6]}")
    apply_crds()  # those of this clone, whoever has applied others before
    yield home
    if request.session.testsfailed > before:  # else the page has taken it away
        destroy(home, failed=True)


def test_getting_started_on_a_cluster(home: Hotseat, tmp_path: Path) -> None:
    """In a folder that has what a clone has, with a kubeconfig of its own, as the page sets its namespace."""
    for name in ("charts", "crds", "deployment", "knative"):
        shutil.copytree(ROOT / name, tmp_path / name)
    kubeconfig = tmp_path / "kubeconfig"
    shutil.copy(os.environ["HOTSEAT_TEST_KUBECONFIG"], kubeconfig)
    kubectl = Path(shutil.which(os.environ.get("KUBECTL", "kubectl")) or "kubectl")
    image, _, tag = IMAGE.rpartition(":")
    renamed = {"hotseat-demo": home.namespace, "newTag: demo": f"newTag: {tag}\n    newName: {image}"}
    renamed |= {"--server-side": "--server-side --force-conflicts", "/models/gemma.gguf": "/models/none.gguf"}
    not_run = {"scripts/image": "the image is there", "pip": "hotseat is installed"}
    page = DOCS / "getting-started-cluster.md"
    with Walk(tmp_path, not_run=not_run, renamed=renamed) as walker:
        walker.env |= {"KUBECONFIG": str(kubeconfig), "PATH": f"{kubectl.parent}{os.pathsep}{walker.env['PATH']}"}
        del walker.env["HOTSEAT_URL"]  # `kubectl hotseat` finds the router
        *steps, cleanup = blocks(page)
        for block in steps:
            walker.take(block)
        walker.renamed = {"NAMESPACE": home.namespace, "NAME": "gemma"}
        walker.not_run = IN_RUNBOOKS
        for runbook in sorted((DOCS / "runbooks").glob("Hotseat*.md")):
            for block in blocks(runbook):
                walker.take(block)
        walker.renamed, walker.not_run = renamed, {}
        walker.take(cleanup)
        print(*(f"$ {command}\n{output}" for command, output in walker.transcript))
