"""What users do, independent of any front end: make, resume, extend, branch and direct takes, and make a corpus."""
