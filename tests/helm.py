"""Helm, for tests of the chart: that of HELM, of the cache of scripts/cluster, or of the PATH."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHART = Path(__file__).parents[1] / "charts/hotseat"
CACHE = Path(os.environ.get("CLUSTER_CACHE", "/var/cache/testcluster")) / "bin"


def tool(name: str, variable: str) -> str:
    """Return the path of a program, or skip the test. What the variable names must be there (scripts/test --cluster sets HELM)."""
    if named := os.environ.get(variable):
        found = shutil.which(named)
        assert found, f"{variable} is {named}, which is not a program"
        return found
    found = shutil.which(CACHE / name) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is neither in {CACHE} nor on the PATH; scripts/cluster/cluster helm compiles Helm")
    return found


def helm(*arguments: str, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run Helm. `given` is its standard input, for `-f -`."""
    command = [tool("helm", "HELM"), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done
