"""`python -m cosmos_eval`, for use under torchrun; the same as `cosmos-eval`."""

from cosmos_eval.cli.app import main

main()
