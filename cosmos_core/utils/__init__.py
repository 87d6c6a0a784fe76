"""What both packages need of files, text and processes. Importing it imports no torch."""
