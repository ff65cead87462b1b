"""Kubernetes: API client and watches, constants, the objects of a Model, and what the status of a pod proves."""
