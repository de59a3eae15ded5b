"""Boxes in videos: their forms, files of tracks, programs that follow a box, pictures with boxes drawn."""
