"""The studio's server: takes are directed, scrubbed and branched in a browser."""
