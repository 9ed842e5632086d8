"""Productions: from the production file to units, jobs, chains, merges and their accounts."""
