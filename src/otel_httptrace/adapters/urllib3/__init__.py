"""Hooks on urllib3 2, and so on what is built on it (requests, botocore), that turn what happens into facts."""
