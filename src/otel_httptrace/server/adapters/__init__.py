"""One module for each server: what it does becomes facts for the ledger."""
