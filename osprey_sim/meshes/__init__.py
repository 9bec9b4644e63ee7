"""Textured meshes of real things: read them from OBJ files, keep them in compact files, name author and license."""
