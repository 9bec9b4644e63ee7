"""Language models behind OpenAI-compatible endpoints: requests, answers on disk, and limits on what is spent."""
