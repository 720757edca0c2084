"""A hospital: the Flower ClientApp."""
