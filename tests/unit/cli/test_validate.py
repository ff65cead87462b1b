"""`hotseat validate` and `hotseat schema`, as somebody types them."""

import json

import pytest
from click.testing import CliRunner

from hotseat.cli.documents import schema, validate
from hotseat.manifests import Plugins

GOOD = """\
apiVersion: hotseat.dev/v1alpha1
kind: Model
metadata: {name: a}
spec: {engine: mock}
"""


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Only an engine `mock` that is content, and the policy `batch`."""

    class Content:
        def check(self, model):
            return []

    plugins = Plugins({"mock": Content}, frozenset({"batch"}))
    monkeypatch.setattr(Plugins, "installed", classmethod(lambda _: plugins))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_documents_that_are_right_are_counted(here):
    (here / "models.yaml").write_text(GOOD)
    (here / "more.yaml").write_text(GOOD.replace("name: a", "name: b"))
    done = CliRunner().invoke(validate, ["models.yaml"])
    assert (done.output, done.exit_code) == ("models.yaml: 1 model, 1 workspace: ok\n", 0)
    done = CliRunner().invoke(validate, ["models.yaml", "more.yaml"])
    assert (done.output, done.exit_code) == ("models.yaml, more.yaml: 2 models, 1 workspace: ok\n", 0)


def test_the_standard_input_is_a_file_too():
    done = CliRunner().invoke(validate, ["-"], input=GOOD)
    assert (done.output, done.exit_code) == ("<stdin>: 1 model, 1 workspace: ok\n", 0)


def test_problems_go_to_the_standard_error_and_the_exit_code_is_2(here):
    (here / "models.yaml").write_text(GOOD.replace("mock", "mok"))
    done = CliRunner().invoke(validate, ["models.yaml", "gone.yaml"])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr == (
        "models.yaml:4:16: Model/a: spec.engine: no such engine is installed\n"
        '    found:   "mok"\n'
        "    allowed: mock\n"
        "    hint:    did you mean mock?\n"
        "gone.yaml: cannot be read: No such file or directory\n"
        "2 problems\n"
    )


def test_programs_get_json_on_the_standard_output(here):
    (here / "models.yaml").write_text(GOOD.replace("mock", "mok"))
    done = CliRunner().invoke(validate, ["models.yaml", "--output", "json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout) == {
        "ok": False,
        "problems": [
            {
                "file": "models.yaml",
                "message": "no such engine is installed",
                "document": "Model/a",
                "line": 4,
                "column": 16,
                "field": "spec.engine",
                "found": '"mok"',
                "allowed": "mock",
                "suggestion": "did you mean mock?",
            }
        ],
    }
    (here / "models.yaml").write_text(GOOD)
    done = CliRunner().invoke(validate, ["models.yaml", "--output", "json"])
    assert json.loads(done.stdout) == {"ok": True, "models": 1, "workspaces": 1, "problems": []}


def test_no_file_at_all_is_a_mistake_of_the_command_line():
    assert CliRunner().invoke(validate, []).exit_code == 2


def test_the_schema_is_printed_for_one_kind_or_for_either():
    either = json.loads(CliRunner().invoke(schema, []).stdout)
    assert len(either["oneOf"]) == 2
    assert json.loads(CliRunner().invoke(schema, ["model"]).stdout)["$ref"] == "#/$defs/Model"
    assert json.loads(CliRunner().invoke(schema, ["workspace"]).stdout)["$ref"] == "#/$defs/Workspace"
    assert CliRunner().invoke(schema, ["pod"]).exit_code == 2


@pytest.mark.parametrize(
    ("command", "example"), [(validate, "hotseat validate models.yaml\n"), (schema, "hotseat schema >")]
)
def test_help_has_an_example(command, example):
    assert f"  {example}" in CliRunner().invoke(command, ["--help"]).output
