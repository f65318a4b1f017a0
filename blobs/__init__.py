"""The machine code: sources, the build, and the images it makes (docs/images.md)."""
