"""The door for clients of the OpenAI images API."""
