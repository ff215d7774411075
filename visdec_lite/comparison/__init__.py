"""Is it any good? Every method on the same data, split, seeds and metric code, and a page to show a sceptic.

fitting          how each kind of method is trained for one brain
methods          the registry: what is compared, by name
cells            one method, one brain, one seed: trained, painted, kept; what may be kept and what is refused
worker, runner   cells in processes of their own, resumable, with a line of progress each
scores           one number a stimulus, from the pictures of a cell
tables           means and intervals over seeds, stimuli and subjects; paired tests; relative gains
figures, page    leaderboard, gallery, curves; results.csv, results.json, report.html
"""
