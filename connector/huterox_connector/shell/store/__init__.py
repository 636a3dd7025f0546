"""Where desired state and the journal are kept."""
