"""Result files: the record, the store, verification, comparison, tables."""
