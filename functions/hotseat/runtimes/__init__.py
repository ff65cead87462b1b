"""Runtimes: how engines are run, on one machine and on Knative."""
