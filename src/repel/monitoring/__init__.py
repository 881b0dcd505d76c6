"""What is watched during training: metrics, warnings, progress, loggers."""
