"""The serving side, under the names that the first Djinn gave it."""
