"""Where we look: one folder for each client library, which turns what happens there into facts."""
