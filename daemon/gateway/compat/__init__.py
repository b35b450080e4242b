"""The endpoints of the systems that Pixmill replaces, as their callers know them."""
