"""The shells around the pure core: each owns a lock or a thread, feeds its machine and carries out what it says."""
