"""From a permit to a stored picture: what a replica does with the items that it claims."""
