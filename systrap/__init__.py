"""gVisor's systrap platform as a readable Python reference: see docs/tour.md."""
