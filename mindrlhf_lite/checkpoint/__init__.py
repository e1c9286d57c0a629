"""Training state on disk: atomic, checksummed, resumable."""
