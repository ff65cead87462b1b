"""Other programs' configuration to documents. What has no equal becomes a comment: nothing is dropped in silence."""

from hotseat.importing.formats import FORMATS, convert
from hotseat.importing.writer import Imported

__all__ = ["FORMATS", "Imported", "convert"]
