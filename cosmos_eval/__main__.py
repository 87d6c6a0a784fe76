"""Entry point of `cosmos-eval` and of `python -m cosmos_eval`, for use under torchrun."""

from cosmos_core.utils.command import import_and_run


def main() -> None:
    """Run the command of the command line and exit with its status."""
    import_and_run("cosmos_eval.cli.app", "cosmos-eval")


if __name__ == "__main__":
    main()
