"""The folder of made_scans.py is importable from all tests below."""
