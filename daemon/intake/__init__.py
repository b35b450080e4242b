"""From stream entries to accepted work."""
