"""Parts of a model from files of their own: language models, differences to them, teachers."""
