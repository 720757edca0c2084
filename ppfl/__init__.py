"""Privacy-preserving federated learning for hospitals: Flower, MobileNetV2, Paillier."""

__version__ = "0.1.0"
