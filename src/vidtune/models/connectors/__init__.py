"""Connectors: tower features -> language-model embeddings."""

PARTS = {
    "mlp": "vidtune.models.connectors.mlp:MlpConnectorConfig",
    "region": "vidtune.models.connectors.region:RegionConnectorConfig",
    "token_merging": "vidtune.models.connectors.token_merging:TokenMergingConfig",
}
"""Connector type -> module and name of its config, see :class:`vidtune.models.connectors.base.ConnectorConfig`."""
