"""One piece of work: accept it, and find it again."""
