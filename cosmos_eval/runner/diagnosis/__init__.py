"""Name the fault behind a wrong number: rerun a few samples under a catalogue of faults."""
