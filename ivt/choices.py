"""Names that people choose among, and what comes with the package: for help texts, which must not load a library."""

ON_BAD_IMAGE = ("error", "skip")  # what to do about pictures that cannot be read
