"""The decoder and its data: configuration, parameter table, Hugging Face files, forward passes."""
