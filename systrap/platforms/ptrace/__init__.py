"""The ptrace platform: the simplest one with the same contract. Oracle, baseline, first lesson."""
