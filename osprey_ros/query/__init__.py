"""Questions about the scene: grammar, spatial relations and the finder."""
