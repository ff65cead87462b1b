"""The code on the pages: it is run (tests/embedded/test_doc_pages.py), or it is known why not, and what can be checked is checked."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema_rs
import pytest
import yaml

from hotseat.cli.main import main
from hotseat.manifests.files import Text
from hotseat.manifests.loading import load_texts
from hotseat.manifests.problems import ManifestErrors
from tests.doc_pages import DOCS, ROOT, STAND_INS, WALKED, Block, blocks, documents

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
RUN = {"getting-started.md", *WALKED}
# Programs whose commands on a page are not run by the tests of one machine, each with the reason.
NOT_RUN = {
    **dict.fromkeys(("kubectl", "kn", "helm"), "needs a cluster: tests/cluster does these steps"),
    **dict.fromkeys(("docker", "apt-get", "systemctl", "journalctl", "pip", "python3"), "changes or reads the machine"),
    **dict.fromkeys(
        ("scripts/test", "scripts/bench", "scripts/kind-up", "scripts/image", "mkdocs", "scripts/demo"),
        "a part of the project, with tests of its own",
    ),
    "curl": "a request: the API's routes have tests of their own, and curl is run on the pages that are walked",
    "eval": "sets variables of a cluster",
    "for": "a loop over commands of a cluster",
    "_HOTSEAT_COMPLETE=fish_source": "the shell's completion, which tests/unit/cli tests",
    "source": "as that",
    "git": "a clone of the project, which the tests stand in",
}
SHELL = {"export", ".", "cd", "sudo"}


def of(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def name(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


def parts(command: str) -> Iterator[list[str]]:
    """The commands of a line, without what connects them."""
    plain = re.sub(r"\s\d?[<>]+ ?\S+", " ", command.replace("\\\n", " "))  # redirections
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    part: list[str] = []
    for word in [*lexer, ";"]:
        if not part and re.match(r"[A-Z][A-Z_]*=", word):  # a variable of the environment of the command
            continue
        if set(word) <= set("|&;"):
            if part:
                yield part
            part = []
        else:
            part.append(word)


def commands() -> Iterator[tuple[Block, list[str]]]:
    for block in of("sh", "console"):
        for command, _ in block.commands():
            for part in parts(command):
                yield block, part


def test_every_command_is_run_or_it_is_known_why_not() -> None:
    """A new program on a page that is not walked needs a reason in NOT_RUN."""
    unknown = {
        f"{name(block)}: {words[0]}"
        for block, words in commands()
        if str(block.page.relative_to(DOCS) if block.page.is_relative_to(DOCS) else block.page.name) not in RUN
        and words[0] not in {*NOT_RUN, *SHELL, *STAND_INS, "hotseat", "grep", "printf"}
    }
    assert unknown == set()


def test_pages_that_are_walked_exist_and_have_commands() -> None:
    for page in RUN:
        assert any(block.language in ("sh", "console") for block in blocks(DOCS / page)), page


def problem(words: list[str]) -> str:
    """What is wrong with a command of hotseat: an option or a command that does not exist. Empty: nothing."""
    arguments = words[1:]
    try:
        context = main.make_context("hotseat", list(arguments), resilient_parsing=False)
        command: click.Command = main
        while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
            found, command_, left = command.resolve_command(context, rest)
            assert command_ is not None, found
            command = command_
            context = command.make_context(found, left, parent=context)
    except click.exceptions.Exit:  # --help
        return ""
    except click.BadParameter as error:
        return "" if "does not exist" in str(error) else error.format_message()
    except click.UsageError as error:
        return error.format_message()
    return ""


def test_every_command_of_hotseat_on_a_page_can_be_parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = {}
    for block, words in commands():
        plain = ["hotseat", *words[2:]] if words[:2] in (["kubectl", "hotseat"], ["kn", "hotseat"]) else words
        if plain[0] == "hotseat" and (what := problem(plain)):
            found[f"{name(block)}: {shlex.join(words)}"] = what
    assert found == {}


@pytest.mark.parametrize("words", ["up --nowhere", "fly", "up --port many", "chat"])
def test_a_wrong_command_is_found(words: str) -> None:
    assert problem(["hotseat", *words.split()])


@pytest.mark.parametrize("block", [block for block in of("yaml") if "apiVersion: hotseat.dev" in block.text], ids=name)
def test_documents_on_the_pages_are_valid(block: Block) -> None:
    """As far as they are whole: one without `spec` is about something else."""
    text = block.text
    if not all("spec" in each for each in documents(block)):
        pytest.skip("a part of a document")
    try:
        load_texts([Text("page.yaml", Path("/page.yaml"), Path("/"), text)])
    except ManifestErrors as errors:
        # What such a document names may be in another one.
        found = [
            str(each)
            for each in errors.problems
            if not re.search(r"no (such )?Model|no such (policy|engine)", str(each))
        ]
        assert found == []


@pytest.mark.parametrize("block", [block for block in of("yaml") if block.file == "values.yaml"], ids=name)
def test_values_on_the_pages_are_values_of_the_chart(block: Block) -> None:
    values = yaml.safe_load(block.text)
    jsonschema_rs.validate(json.loads((ROOT / "charts/hotseat/values.schema.json").read_text(encoding="utf-8")), values)
    common = {"apiVersion": "hotseat.dev/v1alpha1"}
    made = [
        {**common, "kind": "Workspace", "metadata": {"name": "default"}, "spec": values.get("workspace", {})},
        *(
            {**common, "kind": "Model", "metadata": {"name": name}, "spec": spec}
            for name, spec in values.get("models", {}).items()
        ),
    ]
    load_texts([Text("values.yaml", Path("/values.yaml"), Path("/"), yaml.safe_dump_all(made))])


@pytest.mark.parametrize("name", sorted(path.stem for path in (DOCS / "runbooks").glob("Hotseat*.md")))
def test_a_runbook_says_what_it_means_whom_it_affects_how_to_look_and_what_to_do(name: str) -> None:
    text = (DOCS / f"runbooks/{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "What to do"]
    assert f"({name}.md)" in (DOCS / "runbooks/index.md").read_text(encoding="utf-8")
