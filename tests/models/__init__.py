"""The platform's protocols as small models, and the checker that looks at all their states (docs/models.md)."""
