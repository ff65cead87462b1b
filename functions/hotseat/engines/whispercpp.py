"""Engine whispercpp: `whisper-server` of whisper.cpp, for transcription.

Flags and routes: ggml-org/whisper.cpp, examples/server/server.cpp. Images: its README.md and .devops/.
"""

import shutil
from pathlib import Path

from hotseat.api.model import Model
from hotseat.engines.base import Container, EngineError, Launch, Placement, is_remote
from hotseat.engines.repositories import taken

_IMAGES = "ghcr.io/ggml-org/whisper.cpp"
PROGRAM = "whisper-server"
_OURS = ("-m", "--model", "--host", "--port", "--inference-path", "--request-path")


class WhisperCpp:
    """Engine for ggml files of Whisper."""

    name = "whispercpp"
    cannot_sleep = "whisper-server has no request for sleep"

    def check(self, model: Model) -> list[str]:
        """Return a missing source, and args that hotseat sets itself."""
        missing = (
            []
            if model.spec.source
            else ["engine whispercpp needs source: a ggml file, such as hf://ggerganov/whisper.cpp/ggml-base.bin"]
        )
        return missing + taken(model, _OURS)

    def launch(self, model: Model, placement: Placement) -> Launch:
        """Return the command line for a machine with the program."""
        if not model.spec.command and shutil.which(PROGRAM) is None:
            raise EngineError(f"engine whispercpp needs {PROGRAM} on the PATH, or the program in command")
        if placement.weights is not None and not Path(placement.weights).is_file():
            raise EngineError(f"{placement.weights} is no file: name the ggml file in source")
        return Launch(_command_line(model, placement))

    def image(self, model: Model) -> str:
        """Return the image of whisper.cpp's project, for NVIDIA GPUs or the CPU."""
        return f"{_IMAGES}:{'main-cuda' if model.spec.resources.gpus else 'main'}"

    def container(self, model: Model, placement: Placement) -> Container:
        """Return the command line. The image's own program is a shell."""
        return Container(_command_line(model, placement))

    def health_path(self, model: Model) -> str:
        """Return the path of the health check. The port is closed while the model loads."""
        return model.spec.health.path or "/health"

    def fetches(self, model: Model) -> bool:
        """Whether the source is remote."""
        return is_remote(model.spec.source)


def _command_line(model: Model, placement: Placement) -> tuple[str, ...]:
    """Return the command line. OpenAI's route takes the place of the server's own, and its default language, which is English."""
    if placement.weights is None:
        raise EngineError(f"{model.name}: engine whispercpp does not fetch weights itself; use cache.fetchBy: Job")
    argv = [*(model.spec.command or (PROGRAM,)), "--model", placement.weights]
    argv += ["--host", placement.host, "--port", str(placement.port)]
    argv += ["--inference-path", "/v1/audio/transcriptions", "--language", "auto"]
    return (*argv, *model.spec.args)
