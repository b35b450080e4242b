"""Parts that keep an installation in order, each with a loop of its own."""
