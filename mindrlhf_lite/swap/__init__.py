"""Who is in memory when: a residency manager and the stores that idle weights go to."""
