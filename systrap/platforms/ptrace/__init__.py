"""The ptrace platform: the simplest one with the same contract (PTRACE_SYSEMU). Oracle, baseline, first lesson."""
