"""ModelScope's API-Inference (Z-Image and others)."""
