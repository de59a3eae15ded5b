"""Neural networks: VideoLM, its config, towers, connectors, language model, distillation."""
