"""What docs/architecture.md says of paths and files is so, and tests/unit is laid out like the package."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT, PACKAGE = ROOT / "tests" / "unit", ROOT / "functions" / "hotseat"
STEPS = re.findall(
    r"^\| [^|]+ \| `([\w/]+\.py)` \| `([\w.]+)` \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
)


def defined(path: Path) -> set[str]:
    """Functions of a module, and methods with their class."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


def test_both_paths_are_there() -> None:
    assert len(STEPS) >= 20


@pytest.mark.parametrize(("file", "function"), STEPS)
def test_each_step_exists(file: str, function: str) -> None:
    assert function in defined(ROOT / "functions" / "hotseat" / file)


def test_unit_tests_stand_where_their_package_does() -> None:
    folders = {path.parent.relative_to(UNIT) for path in UNIT.rglob("*.py")}
    assert {str(folder) for folder in folders if not (PACKAGE / folder / "__init__.py").exists()} == set()
