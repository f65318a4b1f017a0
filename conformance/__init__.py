"""The conformance suite of the platform contract: cases as data, and a runner for drivers in any language."""
