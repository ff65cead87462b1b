"""The real core, whole days of it in seconds: both machines and a policy against a load in simulated time."""
