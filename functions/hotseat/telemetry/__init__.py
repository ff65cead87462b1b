"""Telemetry of hotseat: metrics, logs and the request log."""
