"""The admission machine: what happens to each request of one router."""
