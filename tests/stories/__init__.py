"""Incidents, each played by a program and a server, and what the report must say of them."""
