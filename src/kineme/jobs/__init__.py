"""Runs that remember: recorded, chained by parents, run here or elsewhere, found again.

`from kineme.jobs import Client`. Importing it needs neither torch nor numpy.
Leaves out: searching for good settings (automl), which makes jobs of its own.
"""
