"""A scheme: what the `files` method makes on the disks of a node, whatever their size: partitions, software RAID,
LVM, file systems and where they are mounted. `fitting.fit` puts it on given disks."""
