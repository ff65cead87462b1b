"""switcher."""
