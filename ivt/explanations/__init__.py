"""Where the model looks: maps over a picture for a sentence or a word of it, and which of its words count."""
