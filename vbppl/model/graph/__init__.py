"""A model as a picture: what depends on what.

In order: `layout` puts boxes in layers, one inside the other, and leads lines between them, and knows of no model;
`svg` draws them; `graph` follows a model's numbers from site to site, and writes Mermaid and DOT.
"""
