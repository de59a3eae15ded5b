"""Connectors: tower features -> language-model embeddings."""

PARTS = {
    "mlp": "vidtune.models.connectors.mlp:MlpConnectorConfig",
    "region": "vidtune.models.connectors.region:RegionConnectorConfig",
}
"""Connector type -> module and name of its config, see :class:`vidtune.models.connectors.base.ConnectorConfig`."""
