"""Runs the items that a replica claims, from the permit to the stored picture."""
