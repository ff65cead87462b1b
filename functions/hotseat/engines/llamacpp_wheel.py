"""llama-server from the wheel `xllamacpp`, with the same flags as far as the wheel supports them.

Its start is part of every switch, so it imports only what is necessary. The server answers 503 on
/health while it loads. SIGTERM ends it at once: with status 0 when it serves, or by the signal
itself while it loads, because the wheel does not release the interpreter then, so that no handler
could run.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# Flags of llama-server → (field of the wheel's CommonParams, type). `cpuparams.n_threads` is a
# field of a field.
VALUES: dict[tuple[str, ...], tuple[str, Callable[[str], Any]]] = {
    ("-m", "--model"): ("model.path", str),
    ("-mm", "--mmproj"): ("mmproj.path", str),
    ("-md", "--model-draft", "--spec-draft-model"): ("speculative.draft.mparams.path", str),
    ("--draft", "--draft-n", "--draft-max", "--spec-draft-n-max"): ("speculative.draft.n_max", int),
    ("--draft-min", "--draft-n-min", "--spec-draft-n-min"): ("speculative.draft.n_min", int),
    ("--draft-p-min", "--spec-draft-p-min"): ("speculative.draft.p_min", float),
    ("-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft", "--spec-draft-ngl"): (
        "speculative.draft.n_gpu_layers",
        int,
    ),
    ("--port",): ("port", int),
    ("--api-prefix",): ("api_prefix", str),
    ("-c", "--ctx-size"): ("n_ctx", int),
    ("-n", "--predict", "--n-predict"): ("n_predict", int),
    ("-b", "--batch-size"): ("n_batch", int),
    ("-ub", "--ubatch-size"): ("n_ubatch", int),
    ("--keep",): ("n_keep", int),
    ("-t", "--threads"): ("cpuparams.n_threads", int),
    ("-tb", "--threads-batch"): ("cpuparams_batch.n_threads", int),
    ("--threads-http",): ("n_threads_http", int),
    ("-ngl", "--gpu-layers", "--n-gpu-layers"): ("n_gpu_layers", int),
    ("-mg", "--main-gpu"): ("main_gpu", int),
    ("--cache-reuse",): ("n_cache_reuse", int),
    ("-cram", "--cache-ram"): ("cache_ram_mib", int),
    ("-sps", "--slot-prompt-similarity"): ("slot_prompt_similarity", float),
    ("--rope-freq-base",): ("rope_freq_base", float),
    ("--rope-freq-scale",): ("rope_freq_scale", float),
    ("--chat-template",): ("chat_template", str),
    ("--embd-normalize",): ("embd_normalize", int),
    ("-s", "--seed"): ("sampling.seed", int),
    ("--temp", "--temperature"): ("sampling.temp", float),
    ("--top-k",): ("sampling.top_k", int),
    ("--top-p",): ("sampling.top_p", float),
    ("--min-p",): ("sampling.min_p", float),
    ("--repeat-penalty",): ("sampling.penalty_repeat", float),
    ("-lv", "--verbosity"): ("verbosity", int),
}
# Flags without a value → (field, value).
SWITCHES: dict[tuple[str, ...], tuple[str, Any]] = {
    ("--embedding", "--embeddings"): ("embedding", True),
    ("--warmup",): ("warmup", True),
    ("--no-warmup",): ("warmup", False),
    ("--jinja",): ("use_jinja", True),
    ("--no-jinja",): ("use_jinja", False),
    ("--metrics",): ("endpoint_metrics", True),
    ("--props",): ("endpoint_props", True),
    ("--no-slots",): ("endpoint_slots", False),
    ("--no-webui", "--no-ui"): ("ui", False),
    ("-nocb", "--no-cont-batching"): ("cont_batching", False),
    ("--context-shift",): ("ctx_shift", True),
    ("--swa-full",): ("swa_full", True),
    ("-kvu", "--kv-unified"): ("kv_unified", True),
    ("-nkvo", "--no-kv-offload"): ("no_kv_offload", True),
}
# Flags whose value is a name → (field, the wheel's enum, the members' prefix).
CHOICES: dict[tuple[str, ...], tuple[str, str, str]] = {
    ("--pooling",): ("pooling_type", "llama_pooling_type", "LLAMA_POOLING_TYPE_"),
    ("-sm", "--split-mode"): ("split_mode", "llama_split_mode", "LLAMA_SPLIT_MODE_"),
    ("-ctk", "--cache-type-k"): ("cache_type_k", "ggml_type", "GGML_TYPE_"),
    ("-ctv", "--cache-type-v"): ("cache_type_v", "ggml_type", "GGML_TYPE_"),
    ("--reasoning-format",): ("reasoning_format", "common_reasoning_format", "COMMON_REASONING_FORMAT_"),
    ("--rope-scaling",): ("rope_scaling_type", "llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_"),
}
FLASH_ATTENTION = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}


class WheelProblem(Exception):
    """An argument has an invalid value."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Return llama-server's flags as fields of CommonParams, and a few that need more than an assignment."""
    parser = argparse.ArgumentParser(
        prog="hotseat.engines.llamacpp_wheel",
        usage="%(prog)s --model FILE [flags of llama-server …]",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for flags, (field, kind) in VALUES.items():
        parser.add_argument(*flags, dest=field, type=kind, required=field == "model.path")
    for flags, (field, value) in SWITCHES.items():
        parser.add_argument(*flags, dest=field, action="store_const", const=value)
    for flags, (field, _, _) in CHOICES.items():
        parser.add_argument(*flags, dest=field)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("-a", "--alias", default="")
    parser.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY", ""))
    parser.add_argument("-np", "--parallel", type=int, default=-1)
    parser.add_argument("-fa", "--flash-attn", choices=FLASH_ATTENTION, default="auto")
    parser.add_argument("--rerank", "--reranking", action="store_true", default=False, dest="rerank")
    parser.add_argument("--mlock", action="store_true", default=False)
    parser.add_argument("--no-mmap", action="store_true", default=False)
    parser.add_argument("-to", "--timeout", type=int, default=None)
    parser.add_argument("--slot-save-path", default="")
    parser.add_argument(
        "--cache-idle-slots", action=argparse.BooleanOptionalAction, default=_enabled("CACHE_IDLE_SLOTS")
    )
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]  # noqa: SLF001
        parser.error(_unknown(unknown[0], known))
    return options


def parameters(options: argparse.Namespace, wheel: Any) -> Any:
    """Return the wheel's CommonParams for the parsed flags."""
    params = wheel.CommonParams()
    enums = {field: (getattr(wheel, enum), prefix) for field, enum, prefix in CHOICES.values()}
    for field, value in _fields(options):
        chosen = _member(*enums[field], value) if field in enums else value
        *path, last = field.split(".")
        target = params
        for part in path:
            target = getattr(target, part)
        setattr(target, last, chosen)
    params.hostnames = [options.host]
    params.model_alias = {name for name in options.alias.split(",") if name}
    params.api_keys = [key for key in options.api_key.split(",") if key]
    params.flash_attn_type = _member(
        wheel.llama_flash_attn_type, "LLAMA_FLASH_ATTN_TYPE_", FLASH_ATTENTION[options.flash_attn]
    )
    params.n_parallel = options.parallel
    if options.parallel < 0:  # as llama-server does: four slots that share one context
        params.n_parallel, params.kv_unified = 4, True
    if params.speculative.draft.mparams.path:  # as llama-server does, unless it is told another way to use it
        params.speculative.types = [_member(wheel.common_speculative_type, "COMMON_SPECULATIVE_TYPE_", "draft-simple")]
    if options.rerank:
        params.embedding, params.pooling_type = True, wheel.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    if options.mlock or options.no_mmap:
        mode = {(True, False): "MMAP_MLOCK", (True, True): "MLOCK", (False, True): "NONE"}[
            options.mlock, options.no_mmap
        ]
        params.load_mode = _member(wheel.llama_load_mode, "LLAMA_LOAD_MODE_", mode)
    if options.timeout is not None:
        params.timeout_read = params.timeout_write = options.timeout
    if options.slot_save_path:
        params.slot_save_path = f"{options.slot_save_path.rstrip('/')}/"  # the server adds the name of the file
    if options.cache_idle_slots is not None:
        params.cache_idle_slots = options.cache_idle_slots
    params.endpoint_metrics = params.endpoint_metrics or bool(_enabled("ENDPOINT_METRICS"))
    return params


def _enabled(variable: str) -> bool | None:
    """Return the value of a variable of llama-server. None: not set."""
    text = os.environ.get(f"LLAMA_ARG_{variable}")
    return None if text is None else text.lower() in ("1", "on", "true", "enabled")


def _fields(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    known = {field for field, *_ in (*VALUES.values(), *SWITCHES.values(), *CHOICES.values())}
    return ((field, value) for field, value in vars(options).items() if field in known)


def _member(enum: Any, prefix: str, value: str) -> Any:
    members = enum.__members__
    try:
        return members[prefix + value.upper().replace("-", "_")]
    except KeyError:
        allowed = ", ".join(name.removeprefix(prefix).lower() for name in members if name.startswith(prefix))
        raise WheelProblem(f"{value!r} is none of {allowed}") from None


def _unknown(flag: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415  # not imported at the start, to save time

    near = difflib.get_close_matches(flag.partition("=")[0], known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; install llama-server for all of its flags"
    return f"unknown argument {flag}{hint}"


def main(argv: list[str]) -> NoReturn:
    """Serve until SIGTERM or SIGINT."""
    ending = {signal.SIGTERM, signal.SIGINT}
    for number in ending:
        signal.signal(number, signal.SIG_DFL)
    options = parse(argv)
    import xllamacpp  # noqa: PLC0415  # it maps 100 MB, so arguments are checked before

    try:
        params = parameters(options, xllamacpp)
    except WheelProblem as problem:
        sys.exit(f"llamacpp: {problem}")
    try:
        server = xllamacpp.Server(params)  # noqa: F841  # returns when the model is loaded; serves as long as it is referenced
    except Exception as error:  # any exception of C++
        sys.stderr.write(f"llamacpp: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    _await(ending)
    os._exit(0)  # no destructors: no request is in flight after the drain, and the system frees memory faster


def _await(ending: set[signal.Signals]) -> None:
    """Return when one of the signals arrives.

    The system may deliver it to one of the server's own threads, so the main thread waits for a
    byte rather than for the signal.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in ending:
        signal.signal(number, lambda *_: None)
    os.read(reader, 1)


if __name__ == "__main__":
    main(sys.argv[1:])
