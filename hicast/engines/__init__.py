"""Engines: what runs the denoising net in place of PyTorch, with the same call and nearly the same result."""
