"""``python -m spillover`` is the command ``spillover``."""

from analyses.cli import main

if __name__ == "__main__":
    main()
