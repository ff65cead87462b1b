"""Runtime of a cluster: a Model is a Knative Service at scale zero, and an instance is a pod of it."""
