"""What the server's half tells of real servers, to a scripted client."""
