"""The catalogue: runs, files, collections, datasets, the ledger, and the language that asks for them."""
