"""Readers of mesh files that check before they trust: one module per format, all filling a `SceneBuilder`."""
