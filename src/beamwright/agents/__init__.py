"""The loops: each turn looks at the database, decides (pure) and performs."""
