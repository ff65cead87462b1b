"""How the commands find the router of a cluster: its own address, kubectl, or what the user says; and when they look at all."""

import json
import os
import shlex
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hotseat.cli.main import COMMANDS, main
from hotseat.cli.options import PLUGIN
from tests.unit.cli.fake_cluster import (
    DEPLOYMENT,
    FORBIDDEN,
    KSVC,
    NAMESPACE,
    condition,
    good_cluster,
    items,
    ksvc,
    kubeconfig,
    switcher,
)
from tests.unit.cli.fake_hotseat import FakeHotseat, model

PODS = f"GET /api/v1/namespaces/{NAMESPACE}/pods"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def api():
    """API server of a cluster whose router does not answer from here, but has a pod."""
    fake = FakeHotseat()
    fake.answers = good_cluster()
    fake.answers[PODS] = items(pod("old", "2026-01-01T10:00:00Z"), pod("new", "2026-01-01T11:00:00Z"))
    return fake


def pod(name, created, ready="True", **more):
    return {"metadata": {"name": name, "creationTimestamp": created, **more}, **condition("Ready", ready)}


@pytest.fixture
def router():
    """A router with one model."""
    fake = FakeHotseat()
    fake.answers["GET /health"] = {"status": "ok"}
    fake.answers["GET /v1/models"] = {"object": "list", "data": [model("gemma")]}
    return fake


@pytest.fixture
def place(api, router, tmp_path, monkeypatch):
    """Everything up; gives the address of the router and the kubeconfig. No kubectl but those that a test writes."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("HOTSEAT_URL", raising=False)
    (tmp_path / "bin").mkdir()
    with api.serving() as server, router.serving() as url:
        yield url, str(kubeconfig(tmp_path / "kubeconfig", server))


def run(*args, **kwargs):
    return CliRunner().invoke(main, args, **kwargs)


def kubectl(tmp_path, said, stays=True):
    """A kubectl that notes its arguments, says something, and stays until it is ended."""
    script = tmp_path / "bin" / "kubectl"
    script.write_text(
        f"#!{sys.executable}\nimport os, signal, sys\n"
        f"open({str(tmp_path / 'called')!r}, 'w').write(f'{{os.getpid()}} ' + ' '.join(sys.argv[1:]))\n"
        f"print({said!r}, flush=True)\n" + ("signal.pause()\n" if stays else "sys.exit(1)\n")
    )
    script.chmod(0o755)


def forwarding(url):
    return f"Forwarding from 127.0.0.1:{url.rsplit(':', 1)[1]} -> 8012"


def called(tmp_path):
    """Process id and arguments of the kubectl that ran."""
    pid, *arguments = (tmp_path / "called").read_text().split(" ")
    return int(pid), arguments


def on_one_port(url):
    """A router whose only port has the admin routes."""
    return ksvc("hotseat-router", url=url, HOTSEAT_ADMIN_PORT="")


def test_a_router_whose_own_address_answers_is_asked_there(api, place):
    url, config = place
    api.answers[f"GET {KSVC}/hotseat-router"] = on_one_port(url)
    assert run("--kubeconfig", config, "models", "-o", "name").output == "gemma\n"


@pytest.mark.parametrize(("env", "port"), [({}, "8081"), ({"HOTSEAT_ADMIN_PORT": "9081"}, "9081")])
def test_admin_routes_that_have_a_port_of_their_own_are_asked_there(api, place, tmp_path, env, port):
    """Not at the public address, though it answers."""
    url, config = place
    with FakeHotseat().serving() as public:
        api.answers[f"GET {KSVC}/hotseat-router"] = ksvc("hotseat-router", url=public, **env)
        kubectl(tmp_path, forwarding(url))
        assert run("--kubeconfig", config, "models", "-o", "name").output == "gemma\n"
    assert called(tmp_path)[1][-2:] == ["pod/new", f":{port}"]


@pytest.mark.parametrize("health", ["<html>a parking page</html>", {"status": "no hotseat"}, (503, "", {})])
def test_what_answers_there_but_is_no_hotseat_is_not_asked(api, place, router, tmp_path, health):
    url, config = place
    with FakeHotseat().serving() as other:
        api.answers[f"GET {KSVC}/hotseat-router"] = on_one_port(other)
        kubectl(tmp_path, forwarding(url))
        assert run("--kubeconfig", config, "models", "-o", "name").output == "gemma\n"
    assert called(tmp_path)


def test_else_kubectl_makes_a_way_to_the_youngest_pod_and_is_ended(place, tmp_path):
    url, config = place
    kubectl(tmp_path, forwarding(url))
    assert run("ps", "--kubeconfig", config, "--context", "test").exit_code == 1, "this router knows no /running"
    assert run("models", "--kubeconfig", config, "--context", "test", "-o", "name").output == "gemma\n"
    pid, arguments = called(tmp_path)
    assert arguments == shlex.split(
        f"--namespace=models --kubeconfig={config} --context=test port-forward --address=127.0.0.1 pod/new :8081"
    )
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(("env", "port"), [({}, ":8081"), ({"HOTSEAT_ADMIN_PORT": ""}, ":8888")])
def test_a_router_that_is_a_deployment_is_reached_at_its_containers_port(api, place, tmp_path, env, port):
    url, config = place
    deployment = switcher(**env)
    deployment["metadata"]["name"] = "hotseat-router"
    deployment["status"].pop("url", None)
    deployment["spec"]["template"]["spec"]["containers"][0]["ports"] = [{"containerPort": 8888}]
    del api.answers[f"GET {KSVC}/hotseat-router"]
    api.answers[f"GET {DEPLOYMENT}/hotseat-router"] = deployment
    kubectl(tmp_path, forwarding(url))
    assert run("--kubeconfig", config, "models", "-o", "name").output == "gemma\n"
    assert called(tmp_path)[1][-1] == port
    assert api.last.query == {"labelSelector": "app=switcher"}


def test_a_namespace_is_that_of_the_option_before_that_of_the_context(api, place):
    _, config = place
    result = run("--kubeconfig", config, "models", "-n", "elsewhere")
    assert result.exit_code == 1
    assert "namespace elsewhere has no router" in result.stderr
    assert api.last.path == "/apis/apps/v1/namespaces/elsewhere/deployments/hotseat-router"


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        (items(), "no pod of hotseat-router is ready"),
        (items(pod("a", "1", "False"), pod("b", "2", deletionTimestamp="3")), "no pod of hotseat-router is ready"),
        (FORBIDDEN, "may not do that"),
    ],
)
def test_a_router_without_a_pod_is_told(api, place, pods, said):
    api.answers[PODS] = pods
    result = run("--kubeconfig", place[1], "models")
    assert result.exit_code == 1
    assert said in result.stderr


def test_without_kubectl_it_says_what_else_there_is(place):
    result = run("--kubeconfig", place[1], "models")
    assert result.exit_code == 1
    assert "kubectl is not installed" in result.stderr
    assert "--url" in result.stderr


def test_a_kubectl_that_fails_is_quoted(place, tmp_path):
    kubectl(tmp_path, "error: pods is forbidden", stays=False)
    result = run("--kubeconfig", place[1], "models")
    assert result.exit_code == 1
    assert "kubectl port-forward failed: error: pods is forbidden" in result.stderr


def test_a_kubectl_that_says_nothing_is_not_waited_for_ever(place, tmp_path, monkeypatch):
    monkeypatch.setattr("hotseat.cli.cluster.FORWARD_TIMEOUT", 0.3)
    kubectl(tmp_path, "")
    result = run("--kubeconfig", place[1], "models")
    assert result.exit_code == 1
    assert "kubectl port-forward failed" in result.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(called(tmp_path)[0], 0)


def test_without_a_cluster_it_says_so(tmp_path):
    result = run("--kubeconfig", str(tmp_path / "none"), "models")
    assert result.exit_code == 1
    assert "no usable kubeconfig" in result.stderr


# Which hotseat is meant -----------------------------------------------------------------------------------------------


def test_a_url_that_is_typed_wins_over_a_cluster(api, place):
    url, config = place
    assert run("--kubeconfig", config, "--url", url, "models", "-o", "name").output == "gemma\n"
    assert run("models", "--url", url, "--cluster", "-o", "name").output == "gemma\n"
    assert not api.requests


def test_a_cluster_that_is_named_wins_over_the_environment(api, place):
    url, config = place
    result = run("--kubeconfig", config, "models", "-o", "name", env={"HOTSEAT_URL": NOWHERE})
    assert "kubectl is not installed" in result.stderr, "it was on its way to the cluster"
    api.answers[f"GET {KSVC}/hotseat-router"] = on_one_port(url)
    assert run("--kubeconfig", config, "models", "-o", "name", env={"HOTSEAT_URL": NOWHERE}).output == "gemma\n"


def test_a_plugin_asks_the_cluster_unless_the_environment_names_a_hotseat(place, monkeypatch):
    url, _ = place
    asked = []
    monkeypatch.setattr("hotseat.cli.cluster.router_url", lambda _ctx, cluster: asked.append(cluster) or url)
    assert run("models", "-o", "name", obj=PLUGIN).output == "gemma\n"
    assert run("models", "-n", "chat", "-o", "name", obj=PLUGIN).output == "gemma\n"
    assert [(each.kubeconfig, each.context, each.namespace) for each in asked] == [
        (None, None, None),
        (None, None, "chat"),
    ]
    assert run("models", "-o", "name", obj=PLUGIN, env={"HOTSEAT_URL": url}).output == "gemma\n"
    assert len(asked) == 2


def test_the_plain_program_never_looks_for_a_cluster(place, monkeypatch):
    monkeypatch.setattr("hotseat.cli.cluster.router_url", lambda *_: pytest.fail("it did"))
    monkeypatch.setattr("hotseat.cli.options.DEFAULT_URL", place[0])
    monkeypatch.setenv("KUBECONFIG", place[1])
    assert run("models", "-o", "name").output == "gemma\n"
    assert run("models", "-o", "name", env={"HOTSEAT_URL": place[0]}).output == "gemma\n"


def test_lines_of_a_log_keep_their_short_option(place, router):
    url, _ = place
    router.answers["GET /api/models/gemma/logs"] = "one\ntwo\n"
    result = run("--url", url, "logs", "gemma", "-n", "7")
    assert result.output == "one\ntwo\n", result.output
    assert router.last.query["lines"] == "7"


def test_names_are_not_completed_by_way_of_a_cluster(place, monkeypatch):
    monkeypatch.setattr("hotseat.cli.cluster.router_url", lambda *_: pytest.fail("it did"))
    command = main.get_command(click.Context(main), "load")
    with click.Context(main, obj=PLUGIN) as top, click.Context(command, parent=top) as ctx:
        assert command.params[0].shell_complete(ctx, "g") == []


def test_both_plugins_are_programs_of_the_package(monkeypatch):
    project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["project"]
    started = []
    monkeypatch.setattr(main, "main", lambda **how: started.append(how))
    for program in ("kubectl-hotseat", "kn-hotseat"):
        module, _, function = project["scripts"][program].partition(":")
        getattr(import_module(module), function)()
    assert started == [{"prog_name": f"{name} hotseat", "obj": PLUGIN} for name in ("kubectl", "kn")]


def test_all_that_a_cluster_is_asked_for_is_a_command():
    assert {"models", "ps", "load", "unload", "pin", "unpin", "events", "switches", "chat", "doctor"} <= set(COMMANDS)


def test_a_way_by_kubectl_serves_json_to_programs(place, tmp_path):
    url, config = place
    kubectl(tmp_path, forwarding(url))
    assert json.loads(run("--kubeconfig", config, "models", "-o", "json").stdout)["data"][0]["id"] == "gemma"
