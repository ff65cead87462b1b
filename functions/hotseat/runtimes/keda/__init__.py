"""Runtime of a cluster with KEDA: a Model is a Deployment that KEDA scales, and an instance is its pods."""
