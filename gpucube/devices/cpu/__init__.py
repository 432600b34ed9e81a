"""CPU cores: ducc0 for gridding and FFTs, compiled loops for the rest, one plane and one thread at a time."""
