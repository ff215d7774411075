"""Known answers against what a student wrote; one module a lesson, one function an exercise.

Each takes the attempt and returns what to say when it is right; see `visdec_lite.teaching.verdicts`.
"""
