"""Whether everything that the daemon stands on is fit for work."""
