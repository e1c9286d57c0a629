"""Process groups and collectives. Only this package touches MindSpore's process-wide context and `create_group`."""
