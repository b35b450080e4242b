"""The records that an installation keeps in Redis: its keys, its scripts, typed calls on them, and readers."""
