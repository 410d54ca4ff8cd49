"""What a program may tell Djinn about itself, and what people ask Djinn. Pure Python, without dependencies; nothing here needs Djinn to be running."""
