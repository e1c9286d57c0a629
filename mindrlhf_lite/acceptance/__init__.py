"""What is checked of a device: cases, one process at a time, and several ranks. `tools/ascend_kit.sh` runs it."""
