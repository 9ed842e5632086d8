"""The web console of a workspace, read-only so far; needs the extra ``server``."""
