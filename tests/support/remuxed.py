"""Copies of a video's packets into another file, with the time stamps that careless programs write."""

from collections.abc import Callable
from pathlib import Path

import av
from av.packet import Packet


def remux(source: Path, path: Path, change: Callable[[Packet], object], *, skip: int = 0) -> Path:
    """Copy the video packets from number ``skip`` on; ``change`` may alter each before it is written."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size][skip:]
        for packet in packets:
            change(packet)
            packet.stream = stream
            new.mux(packet)
    return path
