"""The slots of llama-server: how they are listed, saved and restored."""

import json
import re

from hotseat.api.types import EngineCall
from hotseat.engines.base import Slot

_TOKENS = re.compile(rb"^llamacpp:prompt_tokens_total ([0-9.e+]+)$", re.MULTILINE)
_SECONDS = re.compile(rb"^llamacpp:prompt_seconds_total ([0-9.e+]+)$", re.MULTILINE)


class LlamaCppSlots:
    """The part of SavesPrompts (see base.py) that engines with the routes of llama-server share."""

    slots_path = "/slots"
    prompt_rate_path = "/metrics"  # counts the tokens of prompts and the seconds for them

    def read_slots(self, body: bytes) -> list[Slot]:
        """Return the slots in a response. Those that no request has used have no task.

        Earlier versions do not tell: there, each slot may have been used.
        """
        try:
            rows = json.loads(body)
            return [
                Slot(
                    int(row["id"]),
                    "id_task" in row and (row["id_task"] != -1 or "n_prompt_tokens" not in row),
                    int(row["n_prompt_tokens"]) if "n_prompt_tokens" in row else None,
                )
                for row in rows
            ]
        except (TypeError, KeyError, AttributeError, OverflowError) as problem:
            raise ValueError(f"not a list of slots: {problem!r}") from problem

    def read_prompt_rate(self, body: bytes) -> float | None:
        """Return the tokens per second since the engine started."""
        tokens, seconds = _TOKENS.search(body), _SECONDS.search(body)
        return float(tokens[1]) / float(seconds[1]) if tokens and seconds and float(seconds[1]) else None

    def save(self, slot: int, file: str) -> EngineCall:
        """Return the request that saves a slot."""
        return EngineCall(path=f"/slots/{slot}?action=save", body=json.dumps({"filename": file}))

    def restore(self, slot: int, file: str) -> EngineCall:
        """Return the request that restores a slot."""
        return EngineCall(path=f"/slots/{slot}?action=restore", body=json.dumps({"filename": file}))

    def read_transfer(self, body: bytes) -> tuple[int, int]:
        """Return the tokens and bytes in a response."""
        try:
            row = json.loads(body)
            tokens, size = ("n_saved", "n_written") if "n_saved" in row else ("n_restored", "n_read")
            return int(row[tokens]), int(row[size])
        except (TypeError, KeyError, OverflowError) as problem:
            raise ValueError(f"no tokens and bytes: {problem!r}") from problem
