"""Runtime of one machine: models as child processes."""
