"""Random settings against oracles: scripts that run for as long as one likes."""
