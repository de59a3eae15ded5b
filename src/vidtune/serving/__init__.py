"""The server: chat completions in OpenAI's form over HTTP, several models, requests batched continuously."""
