"""Repainting: latents made ready once, then painted in as many ways as wanted, in one or in several regions."""
