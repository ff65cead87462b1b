"""The documents: Model and Workspace."""
