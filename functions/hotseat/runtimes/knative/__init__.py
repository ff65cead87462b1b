"""Runtime of a cluster with Knative: a Model is a Knative Service at scale zero, and an instance is a pod of it on a node."""
