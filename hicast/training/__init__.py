"""Training: data, stages, one loop, checkpoints."""
