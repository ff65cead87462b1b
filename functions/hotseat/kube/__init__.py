"""What every adapter to Kubernetes shares: client and watches, names, the objects of a Model, what a pod's status proves."""
