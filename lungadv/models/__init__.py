"""The networks: what goes in, what comes out, and their losses. They know nothing of files."""
