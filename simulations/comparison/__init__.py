"""A federation beside each site alone, all X-rays pooled, and itself without encryption."""
