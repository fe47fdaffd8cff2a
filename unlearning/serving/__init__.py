"""Models behind a server that speaks OpenAI's chat completions: asked once, kept on the disk."""
