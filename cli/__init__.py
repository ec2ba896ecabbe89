"""The command line of hicast: a thin layer over the engine."""
