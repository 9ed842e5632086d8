"""Conditions: payloads named by their content, tags that only grow, global tags, snapshots for workers."""
