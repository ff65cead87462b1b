"""Policies: which Models should be resident."""
