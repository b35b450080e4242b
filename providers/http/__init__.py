"""The way out: one client, other people's addresses, downloads, posts."""
