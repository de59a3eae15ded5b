"""Setting a stage up before its first step: folder, data, starting model, what trains."""
