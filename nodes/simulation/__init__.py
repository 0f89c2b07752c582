"""Many owners in one run: the very machines of the nodes, without sockets and disks, on threads, processes or Ray."""
