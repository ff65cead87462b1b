"""Other programs' configuration to documents. What has no equal becomes a comment: nothing is dropped in silence."""

from hotseat.importing.llamaswap import convert
from hotseat.importing.writer import Imported

__all__ = ["Imported", "convert"]
