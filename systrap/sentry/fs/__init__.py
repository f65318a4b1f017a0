"""File systems of the guest: inodes (inode.py), the walk over names (path.py), operations on names (vfs.py), and the kinds."""
