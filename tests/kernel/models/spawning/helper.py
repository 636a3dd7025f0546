"""Lies beside a model, in a folder that is no package."""

FACTOR = 3
