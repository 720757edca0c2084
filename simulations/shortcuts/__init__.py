"""Whether a model learns the hospital instead of the disease (`ppfl shortcuts`)."""
