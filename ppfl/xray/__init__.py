"""Pictures: phantoms that need no patient."""

from ppfl.xray.phantoms import PHANTOM_CLASSES, Scanner, draw_phantom, write_phantoms

__all__ = ["PHANTOM_CLASSES", "Scanner", "draw_phantom", "write_phantoms"]
