"""Starting and stopping Kubernetes on one node: etcd, API server, controllers, scheduler, containerd, kubelet, kube-proxy."""

import contextlib
import ipaddress
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import yaml

from testcluster.settings import (
    API_IP,
    BIN,
    DNS_IP,
    GPUS,
    IMAGES,
    KUBECONFIG,
    NODE,
    POD_CIDR,
    PROXY_MODE,
    RUN,
    SERVICE_CIDR,
    SOCKET,
    STATE,
    TOKEN,
)
from testcluster.shell import alive, kubectl, output, sh, start, stop, wait_for, write

CTR = ("ctr", "--address", SOCKET, "--namespace", "k8s.io")
ETCD = "http://127.0.0.1:2379"
ISSUER = "https://kubernetes.default.svc.cluster.local"


def make_certificates(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ["localhost", *("kubernetes.default.svc.cluster.local".rsplit(".", cut)[0] for cut in (4, 3, 2, 0))]
    addresses = ("127.0.0.1", API_IP, host_ip())
    entries = ",".join([*(f"IP:{each}" for each in addresses), *(f"DNS:{each}" for each in names)])
    write(folder / "san", f"subjectAltName={entries}")
    _make_pair(folder, "ca", "api", "kube-apiserver", "-extfile san")
    # The API server shows this one to servers that it forwards to: KEDA's, of external metrics.
    _make_pair(folder, "front-proxy-ca", "front-proxy", "front-proxy-client")
    _openssl(folder, "genrsa -out sa.key 2048")


def _make_pair(folder: pathlib.Path, ca: str, name: str, subject: str, more: str = "") -> None:
    """Make an authority, and a certificate of it."""
    key = "-newkey rsa:2048 -nodes"
    _openssl(folder, f"req -x509 {key} -days 3650 -subj /CN=testcluster-{ca} -keyout {ca}.key -out {ca}.crt")
    _openssl(folder, f"req {key} -subj /CN={subject} -keyout {name}.key -out {name}.csr")
    signed = f"-CA {ca}.crt -CAkey {ca}.key -CAcreateserial -days 3650 {more} -out {name}.crt"
    _openssl(folder, f"x509 -req -in {name}.csr {signed}")


def _openssl(folder: pathlib.Path, command: str) -> None:
    sh("openssl", *command.split(), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def host_ip() -> str:
    """Give this machine's own address: pods reach the API server there."""
    found = json.loads(output("ip", "-j", "-4", "addr", "show", "scope", "global"))
    links = [link for link in found if not link["ifname"].startswith(("cni", "veth", "docker"))]
    return next((info["local"] for link in links for info in link["addr_info"]), "127.0.0.1")


def write_kubeconfig(ca: pathlib.Path) -> None:
    cluster = {"server": "https://127.0.0.1:6443", "certificate-authority": str(ca)}
    name = "testcluster"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "admin"}}],
    }
    write(KUBECONFIG, yaml.safe_dump(document)).chmod(0o600)


def start_kubernetes() -> None:
    for folder in ("logs", "pids", "etcd"):
        (STATE / folder).mkdir(parents=True, exist_ok=True)
    RUN.mkdir(parents=True, exist_ok=True)
    certificates = STATE / "certificates"
    if not certificates.exists():
        make_certificates(certificates)
    write_kubeconfig(certificates / "ca.crt")
    start_etcd()
    start_api_server(certificates)
    start_containerd()
    wait_for(
        "the API server", lambda: _succeeds(BIN / "kubectl", "--kubeconfig", KUBECONFIG, "get", "--raw", "/readyz")
    )
    start_controllers(certificates)
    start_node()
    advertise_gpus()


def start_etcd() -> None:
    urls = (
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
    )
    start("etcd", BIN / "etcd", f"--data-dir={STATE}/etcd", "--unsafe-no-fsync", *urls, "--log-level=warn")


def start_api_server(certificates: pathlib.Path) -> None:
    tokens = write(certificates / "tokens.csv", f'{TOKEN},admin,admin,"system:masters"\n')
    start(
        "kube-apiserver",
        BIN / "kube-apiserver",
        f"--etcd-servers={ETCD}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--advertise-address={host_ip()}",
        f"--tls-cert-file={certificates}/api.crt",
        f"--tls-private-key-file={certificates}/api.key",
        f"--client-ca-file={certificates}/ca.crt",
        f"--token-auth-file={tokens}",
        f"--requestheader-client-ca-file={certificates}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={certificates}/front-proxy.crt",
        f"--proxy-client-key-file={certificates}/front-proxy.key",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={certificates}/sa.key",
        f"--service-account-signing-key-file={certificates}/sa.key",
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-preferred-address-types=InternalIP",
        "--v=1",
    )


def start_controllers(certificates: pathlib.Path) -> None:
    common = (f"--kubeconfig={KUBECONFIG}", "--leader-elect=false", "--v=1")
    start(
        "kube-controller-manager",
        BIN / "kube-controller-manager",
        *common,
        f"--root-ca-file={certificates}/ca.crt",
        f"--service-account-private-key-file={certificates}/sa.key",
        "--use-service-account-credentials",
        f"--cluster-cidr={POD_CIDR}",
        "--allocate-node-cidrs",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--enable-hostpath-provisioner",
    )
    start("kube-scheduler", BIN / "kube-scheduler", *common)
    # What it provisions belongs to root, and nothing changes that for a hostPath; engines and fetch Jobs run as somebody else.
    start("claims", "sh", "-c", "while sleep 0.3; do chmod 777 /tmp/hostpath_pv/*; done 2>/dev/null")


def start_containerd() -> None:
    # A container often may not lower oom_score_adj, which the kubelet would do for each pod's pause process.
    write(STATE / "containerd.toml", f"""
version = 2
root = "{STATE}/containerd"
state = "{RUN}/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "dev.local/pause:test"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{STATE}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
""")  # fmt: skip
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_CIDR}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": f"{RUN}/ipam",
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni-test",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    network = {"cniVersion": "0.4.0", "name": "testcluster", "plugins": [bridge, ports]}
    write(STATE / "cni/10-testcluster.conflist", json.dumps(network))
    start("containerd", "containerd", "--config", STATE / "containerd.toml")
    wait_for("containerd", lambda: _succeeds(*CTR, "version"))


def _succeeds(*command: object) -> bool:
    return sh(*command, check=False, capture_output=True).returncode == 0


def start_node() -> None:
    for key in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        with contextlib.suppress(OSError):
            pathlib.Path("/proc/sys", key).write_text("1")
    sh("iptables", "-P", "FORWARD", "ACCEPT")
    for chain in ("FORWARD", "OUTPUT"):  # while kube-proxy changes its tables, somebody outside could answer instead
        sh("iptables", "-A", chain, "-d", SERVICE_CIDR, "-m", "comment", "--comment", "testcluster", "-j", "DROP")
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "maxPods": 100,
        "imageGCHighThresholdPercent": 100,  # nothing could be pulled again
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "1Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
        "registerNode": True,
        "localStorageCapacityIsolation": False,
    }
    config = write(STATE / "kubelet.yaml", yaml.safe_dump(kubelet))
    common = (f"--kubeconfig={KUBECONFIG}", f"--hostname-override={NODE}", "--v=1")
    folders = (f"--config={config}", f"--root-dir={STATE}/kubelet", f"--node-ip={host_ip()}")
    start("kubelet", BIN / "kubelet", *common, *folders)
    untouched = (
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    )
    start(
        "kube-proxy",
        BIN / "kube-proxy",
        *common,
        f"--cluster-cidr={POD_CIDR}",
        f"--proxy-mode={PROXY_MODE}",
        *untouched,
    )
    wait_for("the node", _node_is_ready)


def _node_is_ready() -> bool:
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    command = ("--kubeconfig", KUBECONFIG, "get", "node", NODE, "--ignore-not-found", "-o", path)
    return "True" in output(BIN / "kubectl", *command)


def advertise_gpus() -> None:
    """Give the node GPUs to hand out: the scheduler counts them like real ones."""
    patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": GPUS}]
    options = ("--subresource=status", "--type=json", "-p", json.dumps(patch))
    kubectl("patch", "node", NODE, *options, stdout=subprocess.DEVNULL)


def import_packed_images() -> None:
    """Import the archives that this node does not have yet, or has an older one of."""
    for archive in sorted(IMAGES.glob("*.tar")):
        stamp = STATE / "imported" / archive.name
        if not stamp.exists() or stamp.stat().st_mtime < archive.stat().st_mtime:
            import_image(archive)
            write(stamp, "")


def import_image(archive: pathlib.Path) -> None:
    sh(*CTR, "images", "import", "--all-platforms", archive, stdout=subprocess.DEVNULL)


def stop_kubernetes() -> None:
    """End every process of the cluster, and leave nothing of it but the cache."""
    for name in (
        "claims",
        "kubelet",
        "kube-proxy",
        "kube-scheduler",
        "kube-controller-manager",
        "kube-apiserver",
        "etcd",
    ):
        stop(name)
    stop("containerd")
    for pid in pod_processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    sh("ip", "link", "delete", "cni-test", check=False, capture_output=True)
    for line in pathlib.Path("/proc/mounts").read_text().splitlines()[::-1]:
        mount = line.split()[1]
        if mount.startswith((f"{STATE}/", f"{RUN}/")):
            sh("umount", "-l", mount, check=False, capture_output=True)
    sh(BIN / "kube-proxy", "--cleanup", check=False, capture_output=True)
    _remove_network()
    for logged in pathlib.Path("/var/log/pods").glob("*_*_*"):
        shutil.rmtree(logged, ignore_errors=True)
    shutil.rmtree(STATE, ignore_errors=True)
    shutil.rmtree(RUN, ignore_errors=True)


def _remove_network() -> None:
    """Remove what the pods' network leaves, where pods were not stopped one by one: the next cluster's would meet it."""
    for name in pathlib.Path("/run/netns").glob("cni-*"):
        addresses = sh("ip", "-n", name.name, "-4", "-j", "address", check=False, capture_output=True).stdout
        found = [at["local"] for link in json.loads(addresses or "[]") for at in link.get("addr_info", ())]
        if any(ipaddress.ip_address(each) in ipaddress.ip_network(POD_CIDR) for each in found):
            sh("ip", "netns", "delete", name.name, check=False, capture_output=True)
    rules = output("iptables-save").splitlines()
    # The CNI plugins name the network in a comment. Rules of a test have the address of a pod.
    ours = re.compile(rf"testcluster|-[sd] {re.escape(POD_CIDR.removesuffix('0.0/16'))}")
    named = [line for line in rules if ours.search(line)]
    chains = {chain for line in named for chain in re.findall(r"-j (CNI-[0-9a-f-]+|CNI-DN-[0-9a-f]+)$", line)}
    kept = [line for line in rules if line not in named and not chains.intersection(re.split(r"[ :]", line))]
    sh("iptables-restore", input="\n".join(kept) + "\n")


def pod_processes() -> set[int]:
    """Find the processes of our pods by their control group, and the shims that serve our containerd."""
    files = pathlib.Path("/sys/fs/cgroup").glob("**/kubepods/**/cgroup.procs")
    pids = {int(line) for procs in files for line in procs.read_text().split()}
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = entry.read_bytes()
            if str(RUN).encode() in line and b"shim" in line:
                pids.add(int(entry.parent.name))
    return pids


def is_up() -> bool:
    return alive("kube-apiserver")
