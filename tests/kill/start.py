"""Starts the payload as a module: Python keeps those compiled."""

import sys

import payload

sys.exit(payload.main(sys.argv[1:]))
