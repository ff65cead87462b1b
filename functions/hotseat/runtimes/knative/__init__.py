"""Runtime of a cluster with Knative: a model is a Knative Service at scale zero, a holder is a pod of it on a node."""
