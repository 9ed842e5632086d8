"""The vocabulary of beamwright: pure values and rules, no input or output."""
