"""Readers of data sets, by format. Importing it imports no torch."""
