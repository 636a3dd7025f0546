"""Copies between host memory and a device."""
