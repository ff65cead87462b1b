"""Stand-ins for server programs. Each takes flags that its project documents, refuses others, and becomes a mock engine.

Where the flags are documented: vllm-project/vllm, docs/features/lora.md and docs/configuration/engine_args.md;
sgl-project/sglang, docs/advanced_features/server_arguments.md; huggingface/text-generation-inference,
docs/source/reference/launcher.md; huggingface/text-embeddings-inference, docs/source/en/cli_arguments.md;
ggml-org/whisper.cpp, examples/server/server.cpp.
"""

import argparse
import json
import os
import sys
from pathlib import Path

# By program: the flag of its model (or none: it is an argument), of its address and of its name; other flags with a value, and without.
PROGRAMS: dict[str, tuple[str, tuple[str, str], str, tuple[str, ...], tuple[str, ...]]] = {
    "vllm": (
        "model", ("--host", "--port"), "--served-model-name",
        ("--revision", "--tensor-parallel-size", "--max-model-len", "--max-loras", "--max-lora-rank"),
        ("--enable-sleep-mode", "--enable-lora"),
    ),
    "sglang": (
        "--model-path", ("--host", "--port"), "--served-model-name",
        ("--revision", "--tp-size", "--mem-fraction-static"), ("--enable-memory-saver", "--enable-weights-cpu-backup"),
    ),
    "text-generation-launcher": (
        "--model-id", ("--hostname", "--port"), "", ("--revision", "--num-shard", "--shard-uds-path", "--quantize"), (),
    ),
    "text-embeddings-router": (
        "--model-id", ("--hostname", "--port"), "", ("--revision", "--uds-path", "--dtype", "--pooling"), (),
    ),
    "whisper-server": (
        "--model", ("--host", "--port"), "", ("--inference-path", "--language", "--threads"), ("--convert",),
    ),
}  # fmt: skip
# Flags with which it sleeps: all of them, or not at all.
SLEEPS = {"vllm": ("--enable-sleep-mode",), "sglang": ("--enable-memory-saver", "--enable-weights-cpu-backup")}


def install(folder: Path) -> None:
    """Write all programs into a directory for the PATH."""
    for name in PROGRAMS:
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{__file__}" {name} "$@"\n')
        program.chmod(0o755)


def main() -> None:
    """Become a mock engine with what the flags say."""
    program = sys.argv[1]
    weights, (host, port), name, values, switches = PROGRAMS[program]
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=False)
    if not weights.startswith("-"):
        parser.add_argument("serve", choices=["serve"])
    parser.add_argument(weights, **({} if weights == "model" else {"required": True, "dest": "model"}))
    parser.add_argument(host, dest="host", required=True)
    parser.add_argument(port, dest="port", required=True)
    if name:
        parser.add_argument(name, dest="name", required=True)
    parser.add_argument("--lora-modules", nargs="*", default=[], type=json.loads, dest="adapters")
    for flag in values:
        parser.add_argument(flag)
    for flag in switches:
        parser.add_argument(flag, action="store_true")
    options = vars(parser.parse_args(sys.argv[2:]))
    for needed in (options["model"], *(each["path"] for each in options["adapters"])):
        if needed.startswith("/") and not Path(needed).exists():
            sys.exit(f"{program}: {needed} does not exist")
    if options["adapters"] and not options["enable_lora"]:
        sys.exit(f"{program}: --lora-modules needs --enable-lora")
    sleeps = [options[flag.strip("-").replace("-", "_")] for flag in SLEEPS.get(program, ())]
    argv = [sys.executable, "-P", "-m", "hotseat.engines.mock_server", "--name", options.get("name", program)]
    argv += ["--host", options["host"], "--port", options["port"], "--load-time", "0.1"]
    argv += ["--sleep"] if sleeps and all(sleeps) else []
    argv += ["--log", os.environ["STAND_IN_LOG"]] if "STAND_IN_LOG" in os.environ else []
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
