"""Sources: where weights come from, and the cache that keeps them."""
