"""Pictures, videos, sheets and weights: everything that is read from or written to files."""
