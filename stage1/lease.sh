#!/bin/sh
# Called by udhcpc with the lease in the environment. stage1 reads the file and sets the address itself.
case "$1" in
bound|renew)
    mkdir -p /run/bootd
    {
        echo "ip=$ip"
        echo "mask=$mask"
        echo "router=$router"
        echo "dns=$dns"
        echo "domain=$domain"
        echo "lease=$lease"
    } > /run/bootd/lease.new
    mv /run/bootd/lease.new /run/bootd/lease
    ;;
esac
exit 0
