"""Builds, starts and stops the test cluster."""
