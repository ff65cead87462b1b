"""A podTemplate is merged over ours as kubectl would do it."""

import pytest

from hotseat.kube.objects import MergeError, merge

BASE = {
    "metadata": {"labels": {"a": "1", "b": "2"}},
    "spec": {
        "containers": [
            {
                "name": "engine",
                "image": "ours",
                "args": ["--a", "--b"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            }
        ],
        "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "ours"}}],
        "tolerations": [{"key": "a"}],
    },
}


def test_maps_are_merged_and_null_removes() -> None:
    merged = merge(BASE, {"metadata": {"labels": {"b": None, "c": "3"}}, "spec": {"runtimeClassName": "nvidia"}})
    assert merged["metadata"]["labels"] == {"a": "1", "c": "3"}
    assert merged["spec"]["runtimeClassName"] == "nvidia"
    assert merged["spec"]["containers"] == BASE["spec"]["containers"]  # type: ignore[call-overload]


def test_named_lists_are_merged_element_by_element() -> None:
    patch = {
        "spec": {
            "containers": [
                {
                    "name": "engine",
                    "args": ["--c"],
                    "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
                    "volumeMounts": [
                        {"name": "other", "mountPath": "/cache"},
                        {"name": "extra", "mountPath": "/extra"},
                    ],
                },
                {"name": "sidecar", "image": "theirs"},
            ]
        }
    }
    engine, sidecar = merge(BASE, patch)["spec"]["containers"]
    assert engine["image"] == "ours"
    assert engine["args"] == ["--c"]  # atomic
    assert engine["env"] == [{"name": name, "value": value} for name, value in (("A", "1"), ("B", "3"), ("C", "4"))]
    assert [mount["name"] for mount in engine["volumeMounts"]] == ["other", "extra"]
    assert sidecar == {"name": "sidecar", "image": "theirs"}


def test_a_volume_of_another_kind_takes_the_place_of_ours() -> None:
    merged = merge(BASE, {"spec": {"volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}]}})
    assert merged["spec"]["volumes"] == [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}]


def test_tolerations_are_replaced_and_pull_secrets_are_merged() -> None:
    base = {"tolerations": [{"key": "a"}], "imagePullSecrets": [{"name": "a"}]}
    merged = merge(base, {"tolerations": [{"key": "b"}], "imagePullSecrets": [{"name": "b"}, {"name": "a"}]})
    assert merged == {"tolerations": [{"key": "b"}], "imagePullSecrets": [{"name": "a"}, {"name": "b"}]}


def test_patch_directives() -> None:
    delete = {"$patch": "delete"}
    assert merge({"a": {"b": 1}, "c": 2}, {"a": delete}) == {"c": 2}
    assert merge({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}) == {"a": {"c": 2}}
    env = {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    assert merge(env, {"env": [{"name": "A", **delete}, {"name": "Z", **delete}]}) == {"env": env["env"][1:]}
    assert merge(env, {"env": [{"$patch": "replace"}, {"name": "C"}]}) == {"env": [{"name": "C"}]}


def test_nothing_given_is_changed() -> None:
    before = repr(BASE)
    merge(BASE, {"spec": {"containers": [{"name": "engine", "env": [{"name": "A", "value": "9"}]}]}})
    assert repr(BASE) == before


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"spec": {"containers": [{"image": "x"}]}}, r"podTemplate\.spec\.containers\[0\] has no name"),
        ({"spec": {"containers": ["x"]}}, r"podTemplate\.spec\.containers\[0\] has no name"),
        ({"spec": {"$patch": "remove"}}, r"podTemplate\.spec\.\$patch is 'remove'; allowed: delete"),
    ],
)
def test_what_cannot_be_merged_is_named(patch: dict[str, object], message: str) -> None:
    with pytest.raises(MergeError, match=message):
        merge(BASE, patch)
