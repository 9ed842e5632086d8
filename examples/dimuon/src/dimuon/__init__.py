"""A sample experiment: pairs of muons, and the momentum scale from the mass of the Z."""
