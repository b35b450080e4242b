"""Reads the records that an installation keeps of jobs and batches."""
