"""Secret values of documents: what may be stated, where they are read, and that no message has one."""

import pytest
from pydantic import ValidationError

from hotseat import secret_values
from hotseat.api.secrets import SecretValue
from hotseat.secret_values import SecretMissing, SecretReader

WHERE = "Model/a: spec.engineKey"


def reader(environ=(), **source) -> SecretReader:
    return SecretReader(SecretValue.model_validate(source), WHERE, dict(environ))


@pytest.mark.parametrize("source", [{}, {"value": "a", "env": "B"}, {"file": "x", "secret": {"name": "s", "key": "k"}}])
def test_exactly_one_source_must_be_set(source):
    with pytest.raises(ValidationError, match="exactly one of value, env, file and secret"):
        SecretValue.model_validate(source)


def test_a_value_is_read_from_each_source(tmp_path):
    (tmp_path / "key").write_text("of-file\n")
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "key").write_text("of-secret")
    assert reader(value="stated").read() == "stated"
    assert reader({"KEY": "of-env"}, env="KEY").read() == "of-env"
    assert reader(file=str(tmp_path / "key")).read() == "of-file"
    mounted = reader({"HOTSEAT_SECRETS_DIR": str(tmp_path)}, secret={"name": "team", "key": "key"})
    assert mounted.read() == "of-secret"


@pytest.mark.parametrize(
    ("environ", "source", "told"),
    [
        ({}, {"env": "KEY"}, "Model/a: spec.engineKey.env: the environment variable KEY is not set"),
        ({"KEY": " "}, {"env": "KEY"}, "spec.engineKey.env: the environment variable KEY is empty"),
        ({}, {"file": "/nowhere/key"}, "spec.engineKey.file: cannot read the file /nowhere/key: No such file"),
        ({}, {"secret": {"name": "s", "key": "k"}}, "spec.engineKey.secret: the Secret s is not mounted here"),
        ({"HOTSEAT_SECRETS_DIR": "/x"}, {"secret": {"name": "s", "key": "k"}}, "cannot read the file /x/s/k"),
    ],
)
def test_what_is_missing_is_named(environ, source, told):
    with pytest.raises(SecretMissing) as caught:
        reader(environ, **source).read()
    assert told in str(caught.value)


@pytest.mark.parametrize("value", ["se\ncret", "sécret", "se\x00cret"])
def test_a_value_that_cannot_stand_in_a_header_is_refused_and_not_shown(value):
    with pytest.raises(SecretMissing) as caught:
        reader({"KEY": value}, env="KEY").read()
    assert "printable ASCII" in str(caught.value)
    assert "cret" not in str(caught.value)


def test_a_file_is_read_again_when_it_has_changed(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(secret_values.time, "monotonic", lambda: now)
    file = tmp_path / "key"
    file.write_text("one")
    key = reader(file=str(file))
    assert key.read() == "one"
    new = tmp_path / "new"
    new.write_text("two!")
    new.replace(file)
    assert key.read() == "one"  # it is looked at once a second
    now += secret_values.RECHECK
    assert key.read() == "two!"
    file.unlink()
    now += secret_values.RECHECK
    with pytest.raises(SecretMissing):
        key.read()


def test_a_value_is_in_no_repr():
    assert "hunter2" not in repr(SecretValue(value="hunter2"))
