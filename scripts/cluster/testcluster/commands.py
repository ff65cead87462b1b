"""The command line."""

import argparse
import os
import pathlib
import subprocess
import time

from testcluster.building import build_binaries, build_images, install_packages, pack_folder
from testcluster.knative import install_dns, install_eventing, install_keda, install_serving
from testcluster.kubernetes import (
    advertise_gpus,
    import_image,
    import_packed_images,
    is_up,
    start_kubernetes,
    stop_kubernetes,
)
from testcluster.settings import BIN, KUBECONFIG, STATE
from testcluster.shell import alive, kubectl, say, sh, write

USAGE = """A real one-node Kubernetes with Knative Serving, Eventing and Kourier, without Docker.

  cluster build [--keda]           compile the binaries and pack the images (about 10 minutes when cold, 10 more with KEDA)
  cluster up [--keda] [--bare]     start Kubernetes, then Knative (a minute); prints the path of a kubeconfig
  cluster import ARCHIVE           import an image archive (docker or OCI)
  cluster load TAG FOLDER          make an image of a folder on top of the Python base, as dev.local/TAG
  cluster helm                     compile Helm, if it is not in the cache, and print its path (4 minutes; no cluster is needed)
  cluster env                      print what a shell needs: eval "$(scripts/cluster/cluster env)"
  cluster status | is-up | logs NAME | down
"""


def build(arguments: argparse.Namespace) -> None:
    install_packages()
    build_binaries(["core", "coredns"] + ["keda"] * arguments.keda)
    build_images(keda=arguments.keda)


def up(arguments: argparse.Namespace) -> None:
    build(arguments)
    if not is_up():
        stop_kubernetes()  # what a machine that went down left: pods without processes, images half imported
        say("starting Kubernetes")
        start_kubernetes()
    elif "CLUSTER_GPUS" in os.environ:
        advertise_gpus()
    import_packed_images()
    parts = {"dns": install_dns, "serving": install_serving, "eventing": install_eventing, "keda": install_keda}
    knative = () if arguments.bare else ("serving", "eventing")
    for part in ("dns", *knative, *["keda"] * arguments.keda):
        stamp = STATE / "installed" / part
        if not stamp.exists():
            say(f"installing {part}")
            parts[part]()
            write(stamp, time.ctime())
    say("ready")
    print(KUBECONFIG)


def down(_: argparse.Namespace) -> None:
    if is_up():
        kubectl("delete", "ksvc", "--all", "-A", "--timeout=20s", check=False, capture_output=True)
    stop_kubernetes()


def status(_: argparse.Namespace) -> None:
    for pid in sorted((STATE / "pids").glob("*")):
        print(f"{pid.name:26} {'running' if alive(pid.name) else 'stopped'}")
    kubectl("get", "pods", "-A", "-o", "wide")


def is_it_up(_: argparse.Namespace) -> None:
    raise SystemExit(0 if is_up() else 1)


def logs(arguments: argparse.Namespace) -> None:
    sh("tail", "-n", "60", STATE / "logs" / f"{arguments.name}.log")


def helm(_: argparse.Namespace) -> None:
    build_binaries(["helm"])
    print(BIN / "helm")


def env(_: argparse.Namespace) -> None:
    print(f'export KUBECONFIG={KUBECONFIG}\nexport PATH={BIN}:"$PATH"')


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="cluster", description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function in (("build", build), ("up", up)):
        command = commands.add_parser(name)
        command.add_argument("--keda", action="store_true")
        command.add_argument("--bare", action="store_true", help="Kubernetes and DNS alone, without Knative")
        command.set_defaults(run=function)
    command = commands.add_parser("load")
    command.add_argument("tag")
    command.add_argument("folder", type=pathlib.Path)
    command.set_defaults(run=lambda arguments: import_image(pack_folder(arguments.tag, arguments.folder)))
    command = commands.add_parser("import")
    command.add_argument("archive", type=pathlib.Path)
    command.set_defaults(run=lambda arguments: import_image(arguments.archive))
    command = commands.add_parser("logs")
    command.add_argument("name")
    command.set_defaults(run=logs)
    for name, function in (("env", env), ("helm", helm), ("status", status), ("is-up", is_it_up), ("down", down)):
        commands.add_parser(name).set_defaults(run=function)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error.cmd[0]} failed with {error.returncode}: {' '.join(error.cmd[1:])}") from None
