"""What a node keeps on its disk: configuration, keys, the roster, the journal and its spool, values of runs."""
