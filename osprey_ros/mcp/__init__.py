"""Tools for agents over the Model Context Protocol. Only `server` and `http` import the SDK."""
