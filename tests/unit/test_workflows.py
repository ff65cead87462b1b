"""The workflows under .github: they parse, pin what they use, and may do no more than each job needs. They are not run here."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github/workflows"
# What jobs may do besides reading the repository, by workflow and job.
RIGHTS = {
    ("docs", "publish"): {"pages": "write", "id-token": "write"},
    ("release", "images"): {"contents": "read", "packages": "write"},
    ("release", "chart"): {"contents": "read", "packages": "write"},
    ("release", "github-release"): {"contents": "write"},
    ("release", "package-index"): {"id-token": "write"},
}
PINNED = re.compile(r"[\w.-]+/[\w./-]+@(v\d+(\.\d+)*|[0-9a-f]{40})")
EXPRESSION = re.compile(r"\$\{\{[^}]*\}\}")

Workflow = dict[Any, Any]


def read(name: str) -> Workflow:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def triggers(workflow: Workflow) -> dict[str, Any]:
    """Return `on`, which is a boolean in YAML 1.1."""
    return workflow[True]


def steps(workflow: Workflow) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


@pytest.fixture(params=sorted(path.stem for path in FOLDER.iterdir()))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_all_workflows_are_there() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == ["docs.yaml", "release.yaml", "test.yaml"]


def test_every_action_is_pinned_and_every_workflow_that_is_called_exists(name: str) -> None:
    workflow = read(name)
    for each in [*steps(workflow), *workflow["jobs"].values()]:
        if (uses := each.get("uses")) is None:
            continue
        if uses.startswith("./"):
            assert "workflow_call" in triggers(read(Path(uses).stem))
        else:
            assert PINNED.fullmatch(uses), uses


def test_rights_are_minimal(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job, its in workflow["jobs"].items():
        assert its.get("permissions", workflow["permissions"]) == RIGHTS.get((name, job), {"contents": "read"}), job
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_jobs_end_and_follow_jobs_that_exist(name: str) -> None:
    jobs = read(name)["jobs"]
    for job, its in jobs.items():
        needs = its.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= jobs.keys() - {job}
        assert ("uses" in its) != ("runs-on" in its)
        assert "uses" in its or its["timeout-minutes"] <= 60


def test_scripts_get_values_by_the_environment_and_no_secret_but_the_job_token(name: str) -> None:
    """What is put into a script by `${{ … }}` is run as a part of it."""
    for step in steps(read(name)):
        assert not EXPRESSION.search(step.get("run", "")), step
    used = re.findall(r"secrets\.(\w+)", (FOLDER / f"{name}.yaml").read_text())
    assert set(used) <= {"GITHUB_TOKEN"}


def test_the_tests_are_what_a_clone_runs() -> None:
    workflow = read("test")
    assert [step["run"] for step in steps(workflow) if "run" in step] == ["scripts/test"]
    assert triggers(workflow).keys() == {"push", "pull_request", "workflow_call"}


def test_the_site_is_built_without_warnings_and_published_from_main() -> None:
    workflow = read("docs")
    assert triggers(workflow) == {"push": {"branches": ["main"]}}
    assert [step["run"] for step in steps(workflow) if "run" in step] == [
        'pip install ".[docs]"',
        "mkdocs build --strict",
    ]


def test_a_release_is_a_tag_that_was_tested() -> None:
    workflow = read("release")
    assert triggers(workflow) == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}
    before: set[str] = set()
    for job, its in workflow["jobs"].items():
        needs = its.get("needs", [])
        assert job == "test" or {*([needs] if isinstance(needs, str) else needs)} <= before
        assert job == "test" or needs
        before.add(job)


def test_images_are_built_with_arguments_that_the_containerfile_has() -> None:
    job = read("release")["jobs"]["images"]
    (build,) = [step for step in job["steps"] if step.get("uses", "").startswith("docker/build-push-action@")]
    given = re.findall(r"^(\w+)=", build["with"]["build-args"], re.MULTILINE)
    file = build["with"]["file"]
    assert set(given) <= set(re.findall(r"^ARG (\w+)", (ROOT / file).read_text(), re.MULTILINE))
    variants = {each["variant"]: each for each in job["strategy"]["matrix"]["include"]}
    assert variants.keys() == {"cpu", "cuda"}
    assert f"ARG BASE={variants['cpu']['base']}\n" in (ROOT / file).read_text()
    assert (
        f"BASE={variants['cuda']['base']} --build-arg EXTRAS={variants['cuda']['extras']}\n"
        in (ROOT / file).read_text()
    )
    assert len({each["suffix"] for each in variants.values()}) == 2


def test_the_chart_is_pushed_with_the_image_of_the_release() -> None:
    """The step puts the image's repository into values.yaml, where the line must be as it expects."""
    job = read("release")["jobs"]["chart"]
    script = job["steps"][-1]["run"]
    [(before, after)] = re.findall(r"s\|\^(.*)\$\|(.*)\|", script)
    values = (ROOT / "charts/hotseat/values.yaml").read_text()
    assert re.findall(rf"^{before}$", values, re.MULTILINE) == [before]
    assert after == "  repository: ghcr.io/${REPOSITORY,,}"
    images = read("release")["jobs"]["images"]["steps"]
    [names] = [step["with"]["images"] for step in images if step.get("id") == "names"]
    assert names == "ghcr.io/${{ github.repository }}"


def test_helm_is_that_of_the_test_cluster(name: str) -> None:
    module = (ROOT / "scripts/cluster/addons/helm/go.mod").read_text()
    [version] = re.findall(r"^\s*helm.sh/helm/v3 (v\S+)", module, re.MULTILINE)
    used = [step["with"]["version"] for step in steps(read(name)) if "setup-helm@" in step.get("uses", "")]
    assert used == ([] if name == "docs" else [version])
