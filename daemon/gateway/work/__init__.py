"""Work in requests: accept it, find it, join it, and show it with its links."""
