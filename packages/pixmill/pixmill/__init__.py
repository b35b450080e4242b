"""The Python client of Pixmill."""
