"""What a user does, without any front end: make a take, resume, extend, branch and direct it, make a corpus."""
