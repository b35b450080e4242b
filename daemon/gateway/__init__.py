"""HTTP for callers without Redis: jobs, batches, live events, archives, an OpenAI-shaped door, the older endpoints."""
