"""The published evidence: tables of counts that others printed, and what they do and do not say.

Takes counts by condition, with a coding into components; gives a page and a figure.
Does not know trials, models or studies of our own.
"""
