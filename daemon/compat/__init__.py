"""Shapes and names of the systems that Pixmill replaces: for their callers alone, handed in from above."""
