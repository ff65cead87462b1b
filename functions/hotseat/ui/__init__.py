"""The web page: `static/` is built from the sources in ui/ of the repository."""
