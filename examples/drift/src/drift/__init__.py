"""A synthetic drift chamber whose constants move run by run: calibrations against known truth."""
