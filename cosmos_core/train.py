"""Entry point of `cosmos-train` and of `torchrun -m cosmos_core.train`."""

from cosmos_core.utils.command import import_and_run


def main() -> None:
    """Run the command of the command line and exit with its status."""
    import_and_run("cosmos_core.cli", "cosmos-train")


if __name__ == "__main__":
    main()
