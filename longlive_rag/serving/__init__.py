"""The HTTP API: `longlive-rag serve`."""
