"""The scheduler: which Models are resident, and every step between."""
