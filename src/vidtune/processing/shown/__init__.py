"""What a model sees of a prompt: the frames of its media as pictures, and its tokens as text."""
