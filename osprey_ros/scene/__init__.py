"""The scene: its objects, tracking, camera motion, what is described when, and the scene file."""
