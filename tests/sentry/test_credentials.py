"""Capability sets as user ids change, by capabilities(7)."""

from systrap.sentry.credentials import ALL, Credentials

SETUID, CHOWN, SETPCAP = 7, 0, 8


def test_start() -> None:
    root, user = Credentials.of(0, 0, (3, 1, 2)), Credentials.of(1000, 100)
    assert (root.permitted, root.effective, root.groups) == (ALL, ALL, (1, 2, 3))
    assert (user.permitted, user.effective, user.capable(SETUID)) == (0, 0, False)
    assert (user.uid, user.gid, user.in_group(100), root.in_group(2), root.in_group(9)) == (
        1000,
        100,
        True,
        True,
        False,
    )


def test_effective_ids() -> None:
    """Only as effective root are capabilities effective; they come back with it."""
    root = Credentials.of(0, 0)
    dropped = root.with_uids(0, 1000, 0)
    assert (dropped.permitted, dropped.effective, dropped.fsuid) == (ALL, 0, 1000)
    assert dropped.with_uids(0, 0, 0).effective == ALL


def test_leaving_root_for_good() -> None:
    root = Credentials.of(0, 0)
    assert root.with_uids(1000, 1000, 1000)[9:11] == (0, 0)
    kept = root._replace(keep_caps=True).with_uids(1000, 1000, 1000)
    assert (kept.permitted, kept.effective) == (ALL, 0)
    assert kept.after_exec().permitted == 0


def test_fsuid() -> None:
    """Capabilities about files go with fsuid, others do not."""
    other = Credentials.of(0, 0).with_fsuid(1000)
    assert (other.capable(CHOWN), other.capable(SETUID)) == (False, True)
    assert other.with_fsuid(0).effective == ALL


def test_sets() -> None:
    root = Credentials.of(0, 0)
    less = root.with_sets(0xFF, 0x0F, 0x01)
    assert less is not None
    assert (less.permitted, less.effective, less.inheritable) == (0xFF, 0x0F, 0x01)
    assert less.with_sets(0x1FF, 0x0F, 0) is None
    assert less.with_sets(0x0F, 0x1F, 0) is None
    assert less.with_sets(0xFF, 0x0F, 0x100) is None
    bound = root._replace(bounding=0)
    assert bound.with_sets(ALL, ALL, 1) is None


def test_exec() -> None:
    """Root gets what the bounding set allows, anybody else the ambient set."""
    root = Credentials.of(0, 0)._replace(bounding=0xFF, inheritable=0x100, permitted=0, effective=0)
    assert root.after_exec()[9:11] == (0x1FF, 0x1FF)
    real = Credentials.of(0, 0).with_uids(0, 1000, 1000).after_exec()
    assert (real.permitted, real.effective, real.suid) == (ALL, 0, 1000)
    user = Credentials.of(1000, 100)._replace(ambient=0x40, permitted=0x41, inheritable=0x40)
    assert user.after_exec()[9:11] == (0x40, 0x40)
