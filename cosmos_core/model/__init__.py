"""The model: OpenCLIP's towers, cross-attention, the teacher, and checkpoint files."""
