"""Guidance and sampling over any denoise callable and any diffusers scheduler."""
