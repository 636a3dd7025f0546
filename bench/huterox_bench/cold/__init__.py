"""How containers start."""
