"""How questions are asked by one process or by several: which of them asks about which video."""
