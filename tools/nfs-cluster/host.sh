#!/bin/sh
# First process of a host: networks, NFS modules, then host.py.
# hosts.py passes labdir= and hostno= on the kernel command line.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc 2>/dev/null
mount -t sysfs sys /sys 2>/dev/null
mount -t tmpfs tmp /run
mkdir /run/tmp; export TMPDIR=/run/tmp
for word in $(cat /proc/cmdline); do
  case $word in
    labdir=*) LAB=${word#labdir=} ;;
    hostno=*) NO=${word#hostno=} ;;
  esac
done
while read -r module; do insmod "$module"; done < "$LAB/modules"
hostname "host$NO"
ulimit -n 65536
ip link set lo up
ip addr add "10.77.0.1$NO/24" dev eth0
ip addr add "10.78.0.1$NO/24" dev eth1
ip addr add "10.79.$NO.2/30" dev eth2
for i in 0 1 2; do ip link set "eth$i" up; done
python3 "$LAB/host.py" "10.79.$NO.2"
echo "host.py ended"
echo o > /proc/sysrq-trigger
sleep 5
