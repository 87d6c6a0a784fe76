"""Helpers of both packages for files, text and processes. Importing it imports no torch."""
