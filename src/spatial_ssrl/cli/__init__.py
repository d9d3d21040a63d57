"""The command line `spatial-ssrl`."""
