"""Calls through memory that caller and container share."""
