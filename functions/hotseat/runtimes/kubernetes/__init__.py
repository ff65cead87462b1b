"""What the runtimes of a cluster share: instances are pods of Deployments, followed, fenced and proven gone."""
