"""Calls through switchboard, kernel and container."""
