"""hotseat: one accelerator, many models; they take turns."""

__version__ = "0.1.0.dev0"
