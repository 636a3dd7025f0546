"""What nothing can beat, on this machine and now."""
