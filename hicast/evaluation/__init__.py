"""Evaluation: how good results are, in figures."""
