"""Measuring identity drift: of one video, and of arms against each other.

footage      a video file, decoded once, in batches
embedders    the vectors by which frames are compared
drift        D(h), the primary endpoint, and curves
companions   measures that a frozen or copied video can't win
protocols    the field's own measures, for comparison with papers
statistics   paired comparison with the prompt as the unit
measure      all of that for one video
plan, compare, engines   arms x prompts x seeds, made and measured, resumable
results, figures, report statistics, plots and the report
"""
