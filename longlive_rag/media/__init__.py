"""Video and pictures: encoding, labels, contact sheets, memory maps, start images."""
