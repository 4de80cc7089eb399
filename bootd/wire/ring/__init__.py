"""What a ring member decides, without threads, sockets, disks or a clock: `member.RingMember` puts it together."""
