"""What a provider sees of an account: places in use, polls, and calls that it refuses."""
