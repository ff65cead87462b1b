"""Threads and locks around the pure core, for one machine and a cluster."""
