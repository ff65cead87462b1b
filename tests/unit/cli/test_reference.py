"""The reference in docs/cli.md is the commands' own help: a flag that it does not name fails here."""

import importlib.util
from pathlib import Path

import click
import pytest

from hotseat.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def generated():
    spec = importlib.util.spec_from_file_location("gen_docs_cli", ROOT / "scripts/gen_docs_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.commands()


def there():
    """Commands whose module is in this tree."""
    return [name for name, (module, _) in COMMANDS.items() if importlib.util.find_spec(module)]


def test_the_page_has_what_the_commands_say(generated):
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    section = page.partition("<!-- generated: commands -->\n")[2].partition("<!-- end: commands -->")[0]
    assert section.strip() == generated.strip(), "docs/cli.md is stale: run scripts/gen-docs"


@pytest.mark.parametrize("name", there())
def test_every_option_and_every_example_is_in_the_reference(generated, name):
    section = generated.partition(f"## `hotseat {name}")[2].partition("\n## `")[0]
    shared = generated.partition("\n## `")[0]
    command = main.get_command(click.Context(main), name)
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert param.help, f"{name} {param.opts} has no help"
            assert all(opt in section or opt in shared for opt in [*param.opts, *param.secondary_opts])
    assert "```sh\n" in section


def test_the_overview_says_of_a_command_what_the_command_begins_with():
    """The overview has texts of its own, so that it need not import the commands: they must not drift apart."""
    for name in there():
        text = " ".join(main.get_command(click.Context(main), name).help.split())
        assert text.startswith(COMMANDS[name][1].removesuffix("."))
