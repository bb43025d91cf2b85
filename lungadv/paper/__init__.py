"""What the paper says: its claims and its two tables, as package data."""
