"""The scripts, each beside the calls that it serves."""
