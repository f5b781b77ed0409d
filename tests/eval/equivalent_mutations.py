EQUIVALENT: dict[tuple[str, str, str], str] = {}
