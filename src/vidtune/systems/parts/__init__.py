"""How others publish towers and language models that several systems use."""
