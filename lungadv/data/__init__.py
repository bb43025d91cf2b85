"""Scans, tables of nodules, lungs and data sets: everything that is read from or written to files."""
