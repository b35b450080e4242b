"""Takes the figures of the documentation from the files of results."""
