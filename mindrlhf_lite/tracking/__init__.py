"""Metrics, samples, settings and summary of a run for trackers: wandb, SwanLab, MLflow, trackio."""
