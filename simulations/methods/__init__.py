"""Ways to train, beside each other on hospitals that differ (`ppfl compare-methods`)."""
