"""Key maps and sizes of published towers and language models that several systems use."""
