"""Measuring identity drift: of one video, and of arms against each other.

footage      a video file, decoded once, in batches
embedders    what a frame is compared by
drift        D(h), the primary endpoint, and curves
companions   what a frozen or copied video can't win
protocols    the field's own measures, so that figures can be set beside papers
statistics   paired comparison with the prompt as the unit
measure      all of that for one video
plan, compare, engines   arms x prompts x seeds, made and measured, resumable
results, figures, report what is said about it
"""
