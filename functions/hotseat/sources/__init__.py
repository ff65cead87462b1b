"""Sources of weights, and the cache for them."""
