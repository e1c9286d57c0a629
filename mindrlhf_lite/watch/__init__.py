"""A page on loopback that shows runs while they go on: it reads their files, and writes none."""
