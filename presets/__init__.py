"""Presets as data: style presets here, those of models and of training in folders beside them."""
