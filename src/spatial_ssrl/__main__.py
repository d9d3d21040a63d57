"""Lets `python -m spatial_ssrl` do what `spatial-ssrl` does."""

from spatial_ssrl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
