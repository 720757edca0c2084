"""Measures what ppfl costs, beside other ways to average updates: ``ppfl bench``."""
