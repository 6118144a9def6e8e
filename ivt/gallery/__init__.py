"""Pictures -> people: a gallery of person crops that grows, shrinks and is searched by sentences.

what is kept       columns (of a picture), store (writes the table), table (reads it)
pictures go in     folders, path_fields, crops -> runner, engine (vectors) -> known_rows, indexing
questions          queries (the grammar), query_vectors -> searching, scores, grouping -> results, sheets
"no match"         calibration (used by a search), fitting and calibrate (make it)
the door           gallery; upkeep has what it does beside adding and searching
"""
