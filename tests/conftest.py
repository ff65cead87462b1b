"""Hypothesis takes its time: how fast a machine is that does other things too proves nothing about the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
