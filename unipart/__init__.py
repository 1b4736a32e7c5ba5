"""UniPart: an open platform for part-level 3D generation."""

__version__ = "0.1.0"
