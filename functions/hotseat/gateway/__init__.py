"""HTTP in front: API families, operations, keys, and the relay to the engines."""
