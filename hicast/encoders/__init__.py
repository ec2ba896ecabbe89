"""Encoders: what turns a picture into the conditions of the net."""
