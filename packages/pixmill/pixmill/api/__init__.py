"""The public classes; `pixmill` itself exports their names."""
