"""The cost of an item to its worker."""
