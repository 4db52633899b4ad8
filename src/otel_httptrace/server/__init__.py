"""A server's half: what it knows of the connections that it accepted."""
