"""Reading and writing scans: one module for each family of file formats."""
