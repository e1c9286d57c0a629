"""Verifiable rewards: answer extraction, verifiers, and the process that runs them. Imports no MindSpore."""
