"""Settings and presets: checked, layered, and free of torch."""
