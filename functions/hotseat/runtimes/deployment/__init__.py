"""Runtime of a cluster without Knative: a Model is a Deployment at zero replicas, and an instance is a pod of it."""
