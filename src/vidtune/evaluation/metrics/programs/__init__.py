"""Caption metrics computed by other programs: METEOR and SPICE by Java programs, BERTScore by an encoder."""
