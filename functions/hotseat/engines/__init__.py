"""Engines: how to run each server program."""
