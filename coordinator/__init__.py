"""The coordinator: the Flower ServerApp."""
