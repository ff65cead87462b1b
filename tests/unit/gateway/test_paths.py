"""How paths with consecutive slashes are read."""

import pytest

from hotseat.gateway.wsgi import single_slashes


@pytest.mark.parametrize(
    ("path", "means"),
    [
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/v1//chat///completions", "/v1/chat/completions"),
        ("//health", "/health"),
        ("//v1//models/", "/v1/models/"),
        ("///", "/"),
        ("/api//models//a//b/load", "/api/models//a//b/load"),
        ("//v1/models/hf://org/repo", "/v1/models/hf://org/repo"),
    ],
)
def test_consecutive_slashes_mean_one_except_in_names_of_models(path: str, means: str) -> None:
    assert single_slashes(path) == means
