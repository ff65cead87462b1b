"""Runtime of a cluster with Knative: a model is a Knative Service at scale zero, an instance is a pod of it on a node."""
