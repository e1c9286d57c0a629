"""Configurations of other toolkits: what becomes of each of their keys, as data, and what is worked out of several."""
