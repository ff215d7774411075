"""One way to solve each exercise; one module a lesson, the same names as in `visdec_lite.teaching.checks`.

`MISTAKES` of a module: exercise -> list of (what goes wrong, attempt). Each is tested to be caught, and the teacher's
plan names them.
"""
