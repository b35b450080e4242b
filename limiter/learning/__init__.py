"""Learning from the answers of a provider."""
