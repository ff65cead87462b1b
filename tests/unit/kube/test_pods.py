"""What a pod's status proves, and what it does not."""

import pytest

from hotseat.kube import pods


def container(name: str = "user-container", restarts: int = 0, last: dict | None = None, **state: dict) -> dict:
    return {"name": name, "state": state, "restartCount": restarts, "lastState": {"terminated": last} if last else {}}


def pod(phase: str = "Running", *statuses: dict, init: tuple[dict, ...] = (), **status: object) -> dict:
    spec = {"nodeName": "node", "containers": [{"name": "user-container"}, {"name": "queue-proxy"}]}
    return {
        "metadata": {"uid": "u", "name": "p"},
        "spec": spec,
        "status": {"phase": phase, "containerStatuses": list(statuses), "initContainerStatuses": list(init), **status},
    }


ENDED = container(terminated={"exitCode": 0})
PROXY_ENDED = container("queue-proxy", terminated={"exitCode": 137})
RUNS = container(running={})
WAITS, PROXY_WAITS = container(waiting={"reason": "PodInitializing"}), container("queue-proxy", waiting={})
INIT_FAILED = container("init", terminated={"exitCode": 137})


@pytest.mark.parametrize(
    ("found", "proven"),
    [
        pytest.param(pod("Failed", ENDED, PROXY_ENDED), True, id="phase and every container"),
        pytest.param(pod("Succeeded", ENDED, PROXY_ENDED, init=(ENDED,)), True, id="with an init container"),
        pytest.param(pod("Running", ENDED, PROXY_ENDED), False, id="containers alone"),
        pytest.param(pod("Failed", RUNS, PROXY_ENDED), False, id="a phase that the garbage collector wrote"),
        pytest.param(pod("Failed", ENDED, PROXY_ENDED, init=(RUNS,)), False, id="a sidecar runs on"),
        pytest.param(pod("Failed", ENDED), False, id="nothing is known of one container"),
        pytest.param(pod("Failed", container(waiting={}), PROXY_ENDED), False, id="one may be about to start"),
        pytest.param(
            pod("Failed", WAITS, PROXY_WAITS, init=(INIT_FAILED,)), True, id="it was stopped in its init container"
        ),
        pytest.param(
            pod("Failed", WAITS, PROXY_WAITS, init=(INIT_FAILED, WAITS)), True, id="in the first of two init containers"
        ),
        pytest.param(pod("Failed", WAITS, PROXY_WAITS, init=(ENDED,)), False, id="init is through: it may be starting"),
        pytest.param(
            pod("Failed", {**WAITS, "containerID": "x"}, PROXY_WAITS, init=(INIT_FAILED,)), False, id="one was begun"
        ),
        pytest.param(
            pod(
                "Failed",
                WAITS,
                PROXY_WAITS,
                init=(INIT_FAILED,),
                conditions=[{"type": "DisruptionTarget", "status": "True"}],
            ),
            False,
            id="its phase was written by somebody else",
        ),
        pytest.param(pod("Failed", init=(ENDED, ENDED)), False, id="only init containers are known of"),
        pytest.param(pod("Failed", reason="UnexpectedAdmissionError"), True, id="the kubelet turned it away"),
        pytest.param(pod("Failed"), False, id="the kubelet never said anything"),
        pytest.param(
            pod("Failed", ENDED, PROXY_ENDED, ephemeralContainerStatuses=[RUNS]), False, id="a debugger is in it"
        ),
    ],
)
def test_only_a_terminal_phase_with_all_containers_terminated_is_proof(found: dict, proven: bool) -> None:
    assert pods.terminal(found) is proven


def test_a_pod_that_was_never_bound_names_no_node() -> None:
    unbound = pod("Pending")
    del unbound["spec"]["nodeName"]
    assert pods.node(unbound) is None


@pytest.mark.parametrize(
    ("found", "reason", "word"),
    [
        (pod("Pending", container(waiting={"reason": "InvalidImageName"})), "ImagePull", "InvalidImageName"),
        (pod("Pending", container(waiting={"reason": "CreateContainerConfigError", "message": "no secret"})), "CreateContainerConfigError", "secret"),
        (pod("Pending", container(waiting={"reason": "CreateContainerError"})), "CreateContainerError", ""),
        (pod("Running", container(waiting={"reason": "CrashLoopBackOff"})), "CrashLoopBackOff", ""),
        (pod("Running", container(terminated={"exitCode": 137, "reason": "OOMKilled"})), "OutOfMemory", "memory"),
        (pod("Running", container(terminated={"exitCode": 3, "message": "bad file\n"})), "ExitedWhileLoading", "code 3: bad file"),
        (pod("Running", container(terminated={"exitCode": 128, "reason": "StartError", "message": "no such file"})), "RunContainerError", "no such file"),
        (pod("Running", container(restarts=1, last={"exitCode": 5}, running={})), "ExitedWhileLoading", "code 5"),
        (pod("Running", container(restarts=2, last={"exitCode": 137, "reason": "OOMKilled"}, waiting={"reason": "CrashLoopBackOff"})), "OutOfMemory", ""),
        (pod("Pending", init=(container("fetch", terminated={"exitCode": 2}),)), "ExitedWhileLoading", "fetch"),
        (pod("Failed", reason="Evicted", message="low on disk"), "Evicted", "low on disk"),
        (pod("Failed", reason="UnexpectedAdmissionError", message="no GPU"), "PodRejected", "no GPU"),
        (pod("Running", RUNS, container("queue-proxy", terminated={"exitCode": 1})), "ExitedWhileLoading", "queue-proxy"),
    ],
)  # fmt: skip
def test_a_failure_is_told_by_its_own_reason(found: dict, reason: str, word: str) -> None:
    failure = pods.failure(found, was_ready=False)
    assert failure is not None
    assert failure.reason == reason
    assert word in failure.message


def test_a_failure_has_the_exit_code_of_the_container_that_ended() -> None:
    for exit_code, reason in ((3, ""), (137, "OOMKilled")):
        failure = pods.failure(
            pod("Running", container(terminated={"exitCode": exit_code, "reason": reason})), was_ready=True
        )
        assert failure is not None
        assert failure.exit_code == exit_code


@pytest.mark.parametrize(
    "found",
    [
        pod("Pending", container(waiting={"reason": "ContainerCreating"})),
        pod("Pending", container(waiting={"reason": "PodInitializing"}), init=(container(running={}),)),
        pod("Running", RUNS, init=(container("fetch", terminated={"exitCode": 0}),)),
    ],
)
def test_what_may_still_become_something_is_no_failure(found: dict) -> None:
    assert pods.failure(found, was_ready=False) is None


def test_an_end_after_it_was_ready_is_called_otherwise() -> None:
    failure = pods.failure(pod("Running", container(terminated={"exitCode": 1})), was_ready=True)
    assert failure is not None
    assert failure.reason == "Exited"


def test_the_engine_that_ended_is_blamed_rather_than_its_proxy() -> None:
    both = pod("Running", PROXY_ENDED, container(terminated={"exitCode": 3}))
    failure = pods.failure(both, was_ready=True)
    assert failure is not None
    assert "user-container" in failure.message


def test_nodes_that_are_gone_for_good() -> None:
    assert pods.node_is_gone(None)
    assert pods.node_is_gone({"spec": {"taints": [{"key": pods.OUT_OF_SERVICE, "effect": "NoExecute"}]}})
    assert not pods.node_is_gone({"spec": {"taints": [{"key": "node.kubernetes.io/unreachable"}]}})


def test_the_scheduler_says_why_not() -> None:
    refused = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "1 Insufficient nvidia.com/gpu",
    }
    assert pods.unschedulable(pod("Pending", conditions=[refused])) == "1 Insufficient nvidia.com/gpu"
    assert pods.unschedulable(pod("Pending", conditions=[{**refused, "reason": "SchedulingGated"}])) is None
    assert pods.unschedulable(pod("Pending")) is None


def test_an_adopted_pod_without_a_gpu_limit_claims_what_its_document_says() -> None:
    from hotseat.runtimes.kubernetes.instance import PodInstance, gpus_of

    holding = PodInstance("a", "w/a@1", 1, 0.0, "a-00001", scaled=True)
    container = {"name": "engine", "resources": {"limits": {"amd.com/gpu": 1}}}
    holding.update(
        {"metadata": {"uid": "u", "name": "p"}, "spec": {"nodeName": "n", "containers": [container]}, "status": {}}
    )
    assert gpus_of(holding) is None


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "ImageInspectError"])
def test_an_image_that_was_not_pulled_is_no_failure_yet(reason: str) -> None:
    found = pod("Pending", container(waiting={"reason": reason, "message": "429 Too Many Requests"}))
    assert pods.failure(found, was_ready=False) is None
    assert pods.pull_error(found) == pods.PodFailure("ImagePull", "user-container: 429 Too Many Requests")
    assert pods.pull_error(pod("Running", RUNS)) is None
