"""What one tenant's flood does to a polite caller."""
