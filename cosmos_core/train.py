"""Entry point of `cosmos-train` and of `torchrun -m cosmos_core.train`."""

from cosmos_core.utils.command import start


def main() -> None:
    """Run the command of the command line and exit with its status."""
    start("cosmos_core.cli", "cosmos-train")


if __name__ == "__main__":
    main()
