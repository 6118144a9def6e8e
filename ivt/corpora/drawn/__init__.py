"""The drawn people of the bundled corpus: who they are, their pictures, their captions."""
