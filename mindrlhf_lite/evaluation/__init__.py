"""Accuracy on held-out questions, with its intervals."""
