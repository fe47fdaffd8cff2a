"""``python -m spillover`` is the command ``spillover``."""

import gc

from analyses import cli


def main() -> None:
    """Run the command line, and end at once."""
    try:
        cli.main()
    finally:
        # Else Python looks for garbage among all that was imported, which takes more than a second.
        gc.freeze()


if __name__ == "__main__":
    main()
