"""What answers of a provider teach about its quota."""
