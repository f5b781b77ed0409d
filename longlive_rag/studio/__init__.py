"""The studio's server: direct, scrub and branch takes in a browser."""
