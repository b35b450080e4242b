"""HTTP: the client of the providers, addresses that others chose, and a server."""
