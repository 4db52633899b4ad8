"""What the core has recorded, as spans and metrics."""
