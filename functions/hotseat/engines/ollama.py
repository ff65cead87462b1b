"""Engine ollama: `ollama serve`, with one model that is there and loaded before the engine is ready.

Variables: ollama/ollama, docs/faq.mdx and envconfig/config.go. Routes: server/routes.go.
"""

import shutil

from hotseat.api.model import Api, Capability, Model
from hotseat.engines.base import Container, EngineError, Launch, Placement

IMAGE = "ollama/ollama:0.12.6"
_SCHEME = "ollama://"
# `$@` is the program, and the rest are variables. No request of Ollama tells whether a model is loaded: the server is ready when it
# has one more name of the model, which it gets once it is loaded. Its manifest is a file, which is removed before the server starts.
# The server logs each request, so that the health checks are taken out of its log. `run` takes the prompt from the standard input. An
# empty one only loads the model, but an empty argument as well would make it " ".
_SCRIPT = """\
MODEL=$HOTSEAT_OLLAMA_MODEL READY=$HOTSEAT_OLLAMA_READY FIRST=$HOTSEAT_OLLAMA_FIRST
mark="${OLLAMA_MODELS:-$HOME/.ollama/models}/manifests/registry.ollama.ai/library/$READY"
rm -rf "$mark"
state=$(mktemp -d) || exit 1
{ "$@" serve 2>&1 & echo $! >"$state/pid"; wait $!; echo $? >"$state/code"; } | sed -u "/$READY/d" &
finish() {
    [ -e "$state/code" ] || kill -TERM "$(cat "$state/pid")"
    wait
    code=$(cat "$state/code" 2>/dev/null || echo 143)
    rm -rf "$mark" "$state"
    exit "${1:-$code}"
}
until [ -s "$state/pid" ]; do sleep 0.01; done
trap finish TERM INT
until "$@" ls >/dev/null 2>&1; do
    [ ! -e "$state/code" ] || finish
    sleep 0.1
done
if ! "$@" show "$MODEL" >/dev/null 2>&1; then
    echo "pulling $MODEL"
    said=$("$@" pull "$MODEL" 2>&1) || { printf '%s\\n' "$said" | tail -n 1; finish 1; }
fi
said=$("$@" run "$MODEL" $FIRST 2>&1 </dev/null) || [ -n "$FIRST" ] || { printf '%s\\n' "$said" | tail -n 1; finish 1; }
"$@" cp "$MODEL" "$READY" || finish 1
wait
finish
"""


class Ollama:
    """Engine for models of Ollama: those of its library, and those that were made with `ollama create`."""

    name = "ollama"
    apis = frozenset({Api.OPENAI, Api.OLLAMA})
    cannot_sleep = "Ollama reads the weights of an unloaded model again"

    def check(self, model: Model) -> list[str]:
        """Return a source of another kind, and fields that have no meaning here."""
        spec = model.spec
        problems = []
        if not (spec.source or "").startswith(_SCHEME):
            problems.append("engine ollama needs source: ollama://NAME[:TAG]; for a .gguf file use engine llamacpp")
        if spec.args:
            problems.append("args has no meaning for engine ollama, whose server has none: set variables in env")
        if spec.engine_model_name:
            problems.append(
                "engineModelName has no meaning for engine ollama: it knows the model by its name in source"
            )
        if spec.scheduling.replicas > 1:
            problems.append(
                "scheduling.replicas is more than 1, which engine ollama cannot have: set concurrency, for OLLAMA_NUM_PARALLEL"
            )
        return problems

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command line for a machine with Ollama. Models are where Ollama has them, or in OLLAMA_MODELS of env."""
        program = model.spec.command[0] if model.spec.command else "ollama"
        if shutil.which(program) is None:
            raise EngineError(f"engine ollama needs {program} on the PATH, or the program in command")
        return Launch(_command_line(model), _environment(model, placement))

    def image(self, model: Model) -> str:  # noqa: ARG002
        """Return the image of Ollama's project."""
        return IMAGE

    def container(self, model: Model, placement: Placement) -> Container:
        """Return the command line for an image with Ollama."""
        return Container(_command_line(model), env=_environment(model, placement))

    def health_path(self, model: Model) -> str:
        """Return the path of the name that the model gets once it is loaded. It answers 404 before."""
        return model.spec.health.path or f"/v1/models/{_ready(model)}"

    def fetches(self, model: Model) -> bool:  # noqa: ARG002
        """Return False: Ollama has a store of its own."""
        return False


def _ready(model: Model) -> str:
    return f"hotseat-ready-{model.name}"


def _command_line(model: Model) -> tuple[str, ...]:
    return ("/bin/sh", "-c", _SCRIPT, "ollama", *(model.spec.command or ("ollama",)))


def _environment(model: Model, placement: Placement) -> dict[str, str]:
    """Return the variables. hotseat decides what is loaded and for how long: one model, until the engine is stopped."""
    env = {
        "OLLAMA_HOST": f"{placement.host}:{placement.port}",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "HOTSEAT_OLLAMA_MODEL": model.engine_model_name,
        "HOTSEAT_OLLAMA_READY": _ready(model),
        # An embedding model cannot be loaded without an input; versions that cannot do that either load it for its first request.
        "HOTSEAT_OLLAMA_FIRST": "x" if Capability.EMBEDDING in model.spec.capabilities else "",
    }
    if model.spec.concurrency:
        env["OLLAMA_NUM_PARALLEL"] = str(model.spec.concurrency)
    if placement.cache is not None:
        env["OLLAMA_MODELS"] = f"{placement.cache}/ollama"
    return env
