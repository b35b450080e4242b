"""OpenAI's images API, and services that speak it."""
