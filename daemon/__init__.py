"""The Pixmill daemon: queue, workers, results and their command line."""
