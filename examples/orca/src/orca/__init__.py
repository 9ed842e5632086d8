"""A sample experiment: an undersea neutrino telescope, on the public KM3NeT test files."""
